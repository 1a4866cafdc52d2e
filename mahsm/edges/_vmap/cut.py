"""The stored form of a batch: what the tasks of a `vmap` are sent, and what they hand in.

Both are stored in checkpoints, and outlive the process, the settings and the version of the code that wrote
them. So a task is sent places in the batch and the batch's identity, and nothing that depends on the present
settings.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NotRequired, TypeAlias

from typing_extensions import TypedDict

from mahsm.data._internal import Ranges
from mahsm.errors import EdgeError
from mahsm.policies import ItemError

BatchId: TypeAlias = list[Any]
"""The identity of a batch: the number of its items, and a digest of them."""

Span: TypeAlias = list[int]
"""Places in the batch: the first, and the one after the last."""


class Assignment(TypedDict):
    """The input of a task.

    A task with `place` runs that item. A task with `spans`, the lead of its wave, runs all items in them; the
    tasks of the wave with neither hand in the lead's results, part by part.
    """

    batch: BatchId
    run: str
    """The run of the edge that has sent the task. A lead and the tasks that hand in its results must be of
    the same run."""
    wave: int
    """The first place of its wave."""
    place: NotRequired[int]
    spans: NotRequired[list[Span]]
    then: NotRequired[int]
    """The first place of the next wave, which this task calls when it has ended."""


class Record(TypedDict):
    """Results of items. A failed item has None in `values`, and its error is in `errors`."""

    places: list[int]
    values: list[Any]
    ranks: list[int]
    """A number for each item, in the order in which they ended, that grows over the whole run."""
    errors: list[ItemError]
    skipped: list[int]
    """Places of items that were left out, since the run was decided without them."""


def new_record() -> Record:
    """Return an empty record."""
    return Record(places=[], values=[], ranks=[], errors=[], skipped=[])


def is_record(value: Any) -> bool:
    """Return whether this version of the code can read what a task has handed in."""
    return isinstance(value, dict) and value.keys() == Record.__annotations__.keys()


def batch_id(items: Sequence[Any], *, digest: bool) -> BatchId:
    """Return the identity of a batch: the number of its items and, with `digest`, a digest of them.

    Only plain values go into the digest. Other objects may differ after they have been in a checkpoint.
    """
    if isinstance(items, Ranges):
        # A batch in files is not read for this.
        return [len(items), _digest([items.identity]) if digest else ""]
    return [len(items), _digest(items) if digest else ""]


def check_batch(edge: str, began_with: BatchId, now: BatchId) -> None:
    """Check that a run is resumed with the batch that it began with.

    Raises:
        EdgeError: if the batch is another one.
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
    """Return ascending places as spans."""
    spans: list[Span] = []
    for place in places:
        if spans and spans[-1][1] == place:
            spans[-1][1] = place + 1
        else:
            spans.append([place, place + 1])
    return spans


def _digest(items: Sequence[Any]) -> str:
    found = hashlib.blake2b(digest_size=8)
    # Items that may be large go one by one, so that the JSON of no more than one is in memory.
    step = 256 if items and isinstance(items[0], int | float) else 1
    for start in range(0, len(items), step):
        try:
            found.update(
                json.dumps(
                    items[start : start + step], default=_nothing, skipkeys=True, sort_keys=True
                ).encode()
            )
        except (TypeError, ValueError, RecursionError):
            # The keys of a dict are of several types, or a value contains itself.
            found.update(b"?")
    return found.hexdigest()


def _nothing(_: object) -> None:
    """Return None, in place of a value that is not plain."""
