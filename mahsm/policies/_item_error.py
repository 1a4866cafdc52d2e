"""Items that failed, as data in the state, and how `reduce_edge` handles them."""

from dataclasses import dataclass
from typing import Any, Generic, TypeGuard, TypeVar

from typing_extensions import TypedDict

from mahsm._common import redacted, shown

T = TypeVar("T")


class ItemError(TypedDict):
    """An item that failed, as data in the state.

    It is a dict of strings and integers, so every checkpointer restores it unchanged, also in LangGraph's
    strict mode. `is_item_error` tells it from a result.

    Example:
        >>> from mahsm import is_item_error
        >>> entries = ["fine", item_error(ValueError("too long"), edge="vmap_read", index=1, item="a.txt")]
        >>> [entry["message"] for entry in entries if is_item_error(entry)]
        ['too long']
    """

    edge: str
    """Name of the edge."""
    index: int
    """Position in the batch, from 0."""
    key: str
    """The item's repr, at most 80 characters, with secrets masked."""
    type: str
    """Class of the exception, with its module unless it is a builtin: "ValueError", "httpx.ReadTimeout"."""
    message: str
    """`str()` of the exception, with secrets masked."""
    attempts: int
    """Attempts of the item, >= 1."""


_FIELDS = ItemError.__annotations__.keys()


def item_error(error: BaseException, *, edge: str, index: int, item: object, attempts: int = 1) -> ItemError:
    """Return the `ItemError` for an exception. Tests import it as `mahsm.testing.item_error`.

    Args:
        error: The exception.
        edge: Name of the edge.
        index: Position of the item in the batch, from 0.
        item: The item; the entry keeps the start of its repr.
        attempts: Attempts of the item, >= 1.

    Example:
        >>> from mahsm.testing import item_error
        >>> entry = item_error(TimeoutError("took longer than 5 s"), edge="vmap_read", index=1, item="a.txt")
        >>> entry["type"], entry["message"], entry["key"]
        ('TimeoutError', 'took longer than 5 s', "'a.txt'")
    """
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return ItemError(
        edge=edge, index=index, key=shown(item), type=name, message=redacted(str(error)), attempts=attempts
    )


def is_item_error(value: object) -> TypeGuard[ItemError]:
    """Return whether a value is an `ItemError`.

    Example:
        >>> is_item_error({"summary": "fine"})
        False
    """
    return isinstance(value, dict) and value.keys() == _FIELDS


@dataclass(frozen=True)
class Penalize(Generic[T]):
    """Error policy of `reduce_edge`: a failed input counts as `value`. Made by `penalize`."""

    value: T


def penalize(value: Any) -> Penalize[Any]:
    """Return an error policy with which `reduce_edge` counts a failed input as `value`.

    With `errors="drop"` it would leave the input out.

    Args:
        value: Replacement for the failed input, such as `0.0` among scores.

    Example:
        >>> from mahsm import reduce_edge
        >>> from mahsm.reducers import mean
        >>> edge = reduce_edge(input_key="scores", output_key="score", reducer=mean, errors=penalize(0.0))
        >>> failed = item_error(ValueError("no answer"), edge="vmap_score", index=1, item="b.txt")
        >>> edge.invoke({"scores": [1.0, failed]})
        {'score': 0.5}
    """
    return Penalize(value)
