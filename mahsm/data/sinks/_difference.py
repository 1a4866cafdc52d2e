"""`difference`: what tells two sources from each other."""

from collections.abc import Mapping
from typing import Any


def difference(begun: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return what tells the source that a sink was begun with from the one of now, in a few words.

    Args:
        begun: The identity of the first one, as in a manifest.
        now: That of the other one.
    """
    if ("files" in begun) != ("files" in now):
        return "files then, and none now" if "files" in begun else "no files then, and files now"
    before, after = ({path: seen for path, *seen in one.get("files", ())} for one in (begun, now))
    for path in sorted(before.keys() ^ after.keys()):
        return f"{path!r} is among its files {'only then' if path in before else 'only now'}"
    for path in before:
        if before[path] != after[path]:
            return f"{path!r} has changed"
    if begun["rows"] != now["rows"]:
        return f"{begun['rows']:,} rows then, and {now['rows']:,} now"
    if begun.get("functions") != now.get("functions"):
        return f"the functions {begun.get('functions')} then, and {now.get('functions')} now"
    return f"{now['rows']:,} rows then and now, but not the same"
