"""Names of steps in the code that calls them: "judge" for `self.judge(...)`, whose class says "Predict"."""

import ast
from itertools import islice
from types import CodeType, FrameType

from mahsm.xcs._step import AWAITED, CALLED

Place = tuple[int | None, int | None, int | None, int | None]
"""The first and the last line of a call, and its first and last column, as `co_positions` gives them."""

_METHODS = CALLED | AWAITED | {"invoke"}


def called_name(function: ast.expr) -> str | None:
    """Return the name of what an expression calls; None if it has none, or one that says nothing."""
    while isinstance(function, ast.Subscript):
        function = function.value
    if isinstance(function, ast.Attribute):
        return called_name(function.value) if function.attr in _METHODS else function.attr
    return function.id if isinstance(function, ast.Name) and function.id not in ("self", "cls") else None


named_codes: dict[int, dict[Place, str]] = {}
"""The names in the calls of rewritten code objects, which are kept for ever, by `id`."""
_known: dict[tuple[int, int], str | None] = {}
"""The same by the place of an instruction, since finding its line and column takes long."""


def remember(code: CodeType, names: dict[Place, str]) -> None:
    """Remember the names in the calls of a rewritten function, and of those inside it."""
    named_codes[id(code)] = names
    for part in code.co_consts:
        if isinstance(part, CodeType):
            remember(part, names)


def place_in(code: CodeType, instruction: int) -> Place:
    """Return the lines and columns of an instruction."""
    return next(islice(code.co_positions(), instruction // 2, None))


def name_in(frame: FrameType) -> str | None:
    """Return the name of what a frame of rewritten code calls now."""
    names = named_codes.get(id(frame.f_code))
    if not names:
        return None
    key = id(frame.f_code), frame.f_lasti
    if key not in _known:
        _known[key] = names.get(place_in(frame.f_code, frame.f_lasti))
    return _known[key]
