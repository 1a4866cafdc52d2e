"""Pages of a list, and the metadata of what is in it."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

from mahsm.testing._wire import Refusal

T = TypeVar("T")


def page(
    ids: Sequence[str], items: Sequence[T], query: Mapping[str, str], *, after: str, before: str, most: int
) -> tuple[list[T], bool]:
    """Return a page of a list, newest first, and whether there is more of it.

    Args:
        ids: The id of each item.
        items: The items, the newest one first.
        query: The parameters of the request.
        after: The name of the parameter that asks for items after an id.
        before: The name of the parameter that asks for items before an id.
        most: The largest limit.

    Raises:
        Refusal: if a parameter is not valid.
    """
    given = query.get("limit", "20")
    if not given.isdecimal() or not 1 <= int(given) <= most:
        raise Refusal(400, f"Invalid 'limit': {given!r}; expected an integer in [1, {most}].", param="limit")
    limit = int(given)
    if before in query:
        end = _position(ids, query[before], before)
        start = max(0, end - limit)
        return list(items[start:end]), start > 0
    start = _position(ids, query[after], after) + 1 if after in query else 0
    return list(items[start : start + limit]), len(items) > start + limit


def _position(ids: Sequence[str], id: str, param: str) -> int:
    if id not in ids:
        raise Refusal(404, f"Invalid {param!r}: there is no {id!r}.", param=param)
    return ids.index(id)


def metadata_of(given: Any) -> dict[str, str] | None:
    """Check metadata: at most 16 strings of 512 characters, under keys of 64.

    Raises:
        Refusal: if it is not valid.
    """
    if given is None:
        return None
    pairs = cast("dict[str, Any]", given) if isinstance(given, dict) else None
    if pairs is None or len(pairs) > 16:
        raise Refusal(400, "Invalid 'metadata': expected an object of at most 16 pairs.", param="metadata")
    for key, value in pairs.items():
        if len(key) > 64 or not isinstance(value, str) or len(value) > 512:
            raise Refusal(
                400,
                f"Invalid 'metadata.{key[:64]}': expected a string of at most 512 characters, under a key of "
                "at most 64.",
                param="metadata",
            )
    return pairs
