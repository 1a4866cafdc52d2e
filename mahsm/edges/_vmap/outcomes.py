"""The outcomes of all items of a `vmap`, put together from the results that its tasks handed in."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from mahsm.edges._vmap.cut import Record
from mahsm.edges._vmap.run import VmapRun
from mahsm.errors import EdgeError
from mahsm.policies import ItemError


@dataclass(frozen=True)
class Outcomes:
    """The outcomes of the items, by their places.

    Attributes:
        run: The run.
        values: The entries; None for items that failed or were left out.
        ranks: The order in which items ended; 0 for those that were left out.
        failed: The errors of the items that failed.
    """

    run: VmapRun
    values: list[Any]
    ranks: list[int]
    failed: dict[int, ItemError]

    @classmethod
    def of(cls, run: VmapRun, records: Iterable[Record]) -> Self:
        """Put records together.

        Raises:
            EdgeError: if the records have no outcome of an item.
        """
        values: list[Any] = [None] * run.total
        ranks = [0] * run.total
        failed: dict[int, ItemError] = {}
        skipped: set[int] = set()
        for record in records:
            for place, value, rank in zip(record["places"], record["values"], record["ranks"], strict=True):
                values[place], ranks[place] = value, rank
            failed.update((error["index"], error) for error in record["errors"])
            skipped.update(record["skipped"])
        outcomes = cls(run, values, ranks, failed)
        outcomes._spread(skipped)
        return outcomes

    def _spread(self, skipped: set[int]) -> None:
        """Copy each outcome to the items that equal its own, and check that no item was lost."""
        lost = 0
        for first in self.run.firsts if 0 in self.ranks else ():
            places = self.run.tally.equal_to(first)
            known = next((place for place in places if self.ranks[place]), None)
            if known is None:
                lost += len(places) if skipped.isdisjoint(places) else 0
                continue
            for place in places if len(places) > 1 else ():
                if not self.ranks[place]:
                    self.values[place], self.ranks[place] = self.values[known], self.ranks[known]
                    if known in self.failed:
                        self.failed[place] = {**self.failed[known], "index": place}
        if lost:
            raise EdgeError(
                f"{self.run.spec.name}: of {self.run.total} items, {lost} have no outcome. Was the run begun "
                "with another target or dedupe_key? Resume it with what it began with, or begin a new run "
                "under another thread_id."
            )

    def entries(self) -> list[Any]:
        """Return the list of entries for `out_key`."""
        spec = self.run.spec
        if spec.concurrency.preserve_order and not self.failed and 0 not in self.ranks:
            return self.values
        every = range(self.run.total)
        order = every if spec.concurrency.preserve_order else sorted(every, key=self.ranks.__getitem__)
        keep = [
            place
            for place in order
            if self.ranks[place] and (spec.failures.on_error == "collect" or place not in self.failed)
        ]
        return [self.failed.get(place, self.values[place]) for place in keep]
