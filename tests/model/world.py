"""Targets that count their calls, fail, and cut runs short; and what is seen of them."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mahsm.policies import is_retryable
from tests.helpers import Gauge
from tests.model.case import Case


class Flaky(ConnectionError):
    """An item has failed."""


class OwnBase(BaseException):
    """What is no `Exception`, and nobody knows."""


BASES = {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt, "OwnBase": OwnBase}
assert is_retryable(Flaky())


class World:
    """What the targets of one case do, over all its runs.

    Attributes:
        calls: How often each item was called.
        finished: Items whose call has returned.
        at_error: `finished` at the moment when an item failed, for each failure.
        gauge: How many calls there are at once.
        cancel: Cancels the run.
        gone: No run is on: a call now is one too many.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.calls: Counter[int] = Counter()
        self.finished: set[int] = set()
        self.at_error: list[set[int]] = []
        self.called_since: list[Counter[int]] = []
        self.gauge = Gauge()
        self.rows: dict[int, Gauge] = {row: Gauge() for row, _ in enumerate(case.batches)}
        self.cancel: Callable[[], object] | None = None
        self.gone = False
        self.late = 0
        self._row_of = {item: row for row, items in enumerate(case.batches) for item in items}
        self._left = dict(case.fails)
        self._lock = threading.Lock()
        self._fault = case.fault

    @property
    def target(self) -> Callable[[dict[str, Any]], Any]:
        return self.blocking if self.case.blocks else self.waiting

    def blocking(self, state: dict[str, Any]) -> int:
        item = state["item"]
        with self._inside(item):
            self._begin(item)
            if self.case.work:
                time.sleep(self.case.work)
            return self._end(item)

    async def waiting(self, state: dict[str, Any]) -> int:
        item = state["item"]
        with self._inside(item):
            self._begin(item)
            if item == self.case.hangs:
                await asyncio.Event().wait()
            if self.case.work:
                await asyncio.sleep(self.case.work)
            elif self.case.hangs is None:  # else nothing that a timeout could hit waits
                for _ in range(item % 3):
                    await asyncio.sleep(0)
            return self._end(item)

    def side(self, _: Any) -> dict[str, Any]:
        """What runs beside the edge in a `parallel`."""
        with self.gauge.inside():
            return {"side": "done"}

    @contextmanager
    def _inside(self, item: int) -> Iterator[None]:
        with self.gauge.inside(), self.rows[self._row_of.get(item, 0)].inside():
            yield

    def _begin(self, item: int) -> None:
        with self._lock:
            self.late += self.gone
            self.calls[item] += 1
            for counter in self.called_since:
                counter[item] += 1
            number = sum(self.calls.values())
            fault = self._fault
            due = fault is not None and fault.at == (item if fault.kind == "base" else number)
        if fault is None or not due or fault.kind == "stop":
            return
        self._fault = None
        if fault.kind == "base":
            raise BASES[fault.error]("out")
        assert self.cancel is not None
        self.cancel()

    def _end(self, item: int) -> int:
        with self._lock:
            left = self._left.get(item, 0)
            if left > 0:
                self._left[item] = left - 1
                self.at_error.append(set(self.finished))
                self.called_since.append(Counter())
                raise Flaky(item)
            self.finished.add(item)
        return self.case.value(item)
