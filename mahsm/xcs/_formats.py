"""f-strings of rewritten code."""

from collections.abc import Callable
from typing import Any

from mahsm.xcs._containers import ATOMS, has_pending, kind_of
from mahsm.xcs._current import running
from mahsm.xcs._derived import derived, gives_text


def format_(*parts: Any) -> Any:
    """Make the string of an f-string; each part is a string, or a value, a conversion and a format."""
    if (run := running()) is not None:
        run.will_format(parts)
    for part in parts:
        if (
            kind_of(part) is tuple
            and (kind_of(part[0]) not in ATOMS or kind_of(part[2]) is not str)
            and has_pending(part)
        ):
            return derived(_formatted, *parts)
    return _formatted(*parts)


@gives_text
def _formatted(*parts: Any) -> str:
    return "".join(
        part if kind_of(part) is str else format(_CONVERSIONS[part[1]](part[0]), part[2]) for part in parts
    )


_CONVERSIONS: dict[int, Callable[[Any], Any]] = {-1: lambda value: value, 115: str, 114: repr, 97: ascii}
