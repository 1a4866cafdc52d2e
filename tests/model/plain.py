"""What a loop without any concurrency gives: the entries, the errors, and how often each item is called."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.model.case import Case


class Failed(NamedTuple):
    """An `ItemError`, as far as the loop can say what is in it."""

    index: int
    kind: str
    attempts: int


@dataclass
class Expected:
    """What comes of one batch if nothing cuts the run short.

    Attributes:
        items: The batch.
        values: What each item gives if it does not fail.
        places: A value or a `Failed` for each item.
        calls: How often each item is called.
    """

    items: list[int]
    values: list[Any]
    places: list[Any]
    calls: dict[int, int]

    @property
    def failures(self) -> list[Failed]:
        return [place for place in self.places if isinstance(place, Failed)]

    @property
    def need(self) -> int:
        """How many calls it takes."""
        return sum(self.calls.values())

    def entries(self, on_error: str) -> list[Any]:
        return [place for place in self.places if on_error != "drop" or not isinstance(place, Failed)]


def plain(case: Case, items: list[int]) -> Expected:
    first: dict[int, int] = {}
    fails = dict(case.fails)
    expected = Expected(items, [], [], {})
    for index, item in enumerate(items):
        called = first.setdefault(case.key(item), item)
        if called == item:
            expected.calls[item] = min(fails.get(item, 0) + 1, case.tries)
        expected.values.append(case.value(called))
        if called == case.hangs:
            expected.places.append(Failed(index, "TimeoutError", 1))
        elif fails.get(called, 0) >= case.tries:
            expected.places.append(Failed(index, "Flaky", case.tries))
        else:
            expected.places.append(case.value(called))
    return expected


def failures_allowed(case: Case, total: int) -> int:
    """How many items may fail before `min_success` cannot be reached."""
    least = case.min_success or 0
    if isinstance(least, float):
        least = next(count for count in range(total + 1) if count >= least * total)
    return total - least
