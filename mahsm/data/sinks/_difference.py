"""`difference`: what tells two sources from each other."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any


def difference(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what tells the source that a sink was begun with from the one of now, in a few words.

    Args:
        begun: The identity of the first one, as in a manifest.
        now: That of the other one.
    """
    if ("files" in begun) != ("files" in now):
        whole, other = "all rows of files", "a part of files, or rows from elsewhere"
        return f"{whole} then, and {other} now" if "files" in begun else f"{other} then, and {whole} now"
    before, after = ({path: seen for path, *seen in one.get("files", ())} for one in (begun, now))
    for path in sorted(before.keys() ^ after.keys()):
        return f"{path!r} is among its files {'only then' if path in before else 'only now'}"
    for path in before:
        if before[path] != after[path]:
            return f"{path!r} has changed: {_changed(before[path], after[path])}"
    if begun["rows"] != now["rows"]:
        return f"{begun['rows']:,} rows then, and {now['rows']:,} now"
    if begun.get("functions") != now.get("functions"):
        is_same = _steps(begun) == _steps(now)  # but for their modules
        return f"{_steps(begun, whole=is_same)} then, and {_steps(now, whole=is_same)} now"
    return f"{now['rows']:,} rows then and now, but not the same"


def _changed(before: Sequence[int], after: Sequence[int]) -> str:
    """Return what tells the size and time of modification (in nanoseconds) of a file from those before."""
    (size, time), (size_now, time_now) = before, after
    if size != size_now:
        return f"{size:,} bytes then, and {size_now:,} now"
    return f"the same size, but written at {_moment(time)} then, and at {_moment(time_now)} now"


def _moment(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds // 10**9).astimezone().isoformat(" ")


def _steps(identity: Mapping[str, Any], *, whole: bool = False) -> str:
    """Return the functions of `map`, each `module:name` in whole, or else `name`."""
    names = [str(name) if whole else str(name).rpartition(":")[2] for name in identity.get("functions") or ()]
    return f"rows mapped by {', '.join(names)}" if names else "rows as they are"
