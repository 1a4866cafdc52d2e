"""The lines of the function's code in the tracebacks of errors that come later, when a value arrives.

A frame of the function cannot be kept until then: it would keep all its variables. So its code object and the
place in it are kept, and an error gets a traceback entry of a small function that is compiled to stand there.
"""

import ast
import functools
import sys
from types import CodeType, FunctionType, TracebackType
from typing import Any

from mahsm.xcs._call_names import named_codes, place_in

Line = tuple[CodeType, int]
"""A place in rewritten code: the code object, and the offset of the instruction."""

_DEPTHS = range(3, 9)
"""How far the code of the function is from `line_here`, which a function that computes its values calls."""

# `f_back` would make an object of each frame between, which takes longer.
_frame: Any = sys._getframe  # pyright: ignore[reportPrivateUsage]


def line_here() -> Line | None:
    """Return the place in the function's code that runs here, if it is near."""
    try:
        for depth in _DEPTHS:
            frame = _frame(depth)
            if id(frame.f_code) in named_codes:
                return frame.f_code, frame.f_lasti
    except ValueError:  # the stack has no more frames
        pass
    return None


def show_line(error: BaseException, line: Line | None) -> None:
    """Add a place to the traceback of an error, as that of the outermost call."""
    if line is None:
        return
    try:
        _standing_at(line)()
    except _Here:
        # The first entry is that of this function.
        made: Any = sys.exc_info()[2]
        made = made.tb_next
        error.__traceback__ = TracebackType(error.__traceback__, made.tb_frame, made.tb_lasti, made.tb_lineno)


class _Here(Exception):
    """Raised by functions that stand at a line. Never seen outside."""


@functools.lru_cache(maxsize=256)
def _standing_at(line: Line) -> FunctionType:
    """Return a function that raises `_Here` at a place, with the names of the function whose place it is."""
    code, _ = line
    first, last, begin, end = place_in(*line)
    at: Any = {
        "lineno": first or code.co_firstlineno,
        "end_lineno": last,
        "col_offset": begin or 0,
        "end_col_offset": end,
    }
    module = ast.parse("def here(): raise Here")
    function: Any = module.body[0]
    for node in ast.walk(function.body[0]):
        for name, value in at.items():
            setattr(node, name, value)
    function.lineno = function.end_lineno = code.co_firstlineno
    made = next(
        part
        for part in compile(module, code.co_filename, "exec", dont_inherit=True).co_consts
        if isinstance(part, CodeType)
    )
    named = made.replace(co_name=code.co_name, co_qualname=code.co_qualname)
    return FunctionType(named, {"Here": _Here})
