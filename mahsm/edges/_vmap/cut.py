"""What a batch is cut into: what the tasks of a `vmap` are sent, and what they hand in.

Both are stored in checkpoints, and outlive the process, the settings and the version of the code that wrote
them. So a task is sent places in the batch and nothing that only the present settings could explain, and says
of which batch they are.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NotRequired, TypeAlias

from typing_extensions import TypedDict

from mahsm.errors import EdgeError
from mahsm.policies import ItemError

BatchId: TypeAlias = list[Any]
"""Which batch it is: how many items, and a digest of them."""

Span: TypeAlias = list[int]
"""Places in the batch: the first, and the one after the last."""


class Assignment(TypedDict):
    """What a task is sent.

    One with `place` runs this item. One with `spans` runs all items in them, and others, with neither, hand
    in what these gave, part by part.
    """

    batch: BatchId
    run: str
    """Which run of the edge has sent it: the one that hands in and the one that runs the items have to be of
    the same."""
    wave: int
    """The first place of its wave."""
    place: NotRequired[int]
    spans: NotRequired[list[Span]]
    then: NotRequired[int]
    """The first place of the next wave, which this task calls when it has ended."""


class Record(TypedDict):
    """What items gave. One that failed has None in `values` and stands in `errors`."""

    places: list[int]
    values: list[Any]
    ranks: list[int]
    """When each item ended, as a number that grows over the whole run."""
    errors: list[ItemError]
    skipped: list[int]
    """Places of items that were left out, since the run was decided without them."""


def new_record() -> Record:
    """A record of nothing."""
    return Record(places=[], values=[], ranks=[], errors=[], skipped=[])


def is_record(value: Any) -> bool:
    """Whether this version of the code can read what a task has handed in."""
    return isinstance(value, dict) and value.keys() == Record.__annotations__.keys()


def batch_id(items: Sequence[Any], *, digest: bool) -> BatchId:
    """What tells a batch from others: how many items it has and, with `digest`, what they are.

    Of the items, what is no plain value counts as nothing: it might look otherwise after it has been in a
    checkpoint.
    """
    return [len(items), _digest(items) if digest else ""]


def check_batch(edge: str, began_with: BatchId, now: BatchId) -> None:
    """Compare the batch that a run began with to that of the present run.

    Raises:
        EdgeError: if it is another one.
    """
    if began_with == now or (began_with[0] == now[0] and not (began_with[1] and now[1])):
        return
    difference = f"{began_with[0]} items, and now it has {now[0]}"
    if began_with[0] == now[0]:
        difference = f"other items: {now[0]} then and now, but not the same"
    raise EdgeError(
        f"{edge}: this run began with a batch of {difference}. Resume it with the state, sample= and "
        "item_to_state= that it began with, or begin a new run under another thread_id."
    )


def spans_of(places: Iterable[int]) -> list[Span]:
    """Ascending places as spans."""
    spans: list[Span] = []
    for place in places:
        if spans and spans[-1][1] == place:
            spans[-1][1] = place + 1
        else:
            spans.append([place, place + 1])
    return spans


def _digest(items: Sequence[Any]) -> str:
    found = hashlib.blake2b(digest_size=8)
    step = 256 if items and isinstance(items[0], int | float) else 1  # no copy of more than one large item
    for start in range(0, len(items), step):
        try:
            found.update(
                json.dumps(
                    items[start : start + step], default=_nothing, skipkeys=True, sort_keys=True
                ).encode()
            )
        except (TypeError, ValueError, RecursionError):  # keys of several types; a value inside of itself
            found.update(b"?")
    return found.hexdigest()


def _nothing(_: object) -> None:
    """What stands for a value that is not plain."""
