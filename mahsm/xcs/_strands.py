"""`Strand`: a part of a program that runs in its own order, beside others."""

import bisect
from collections.abc import Collection
from typing import Protocol

from mahsm.xcs._cells import Cell
from mahsm.xcs._journal import Journal
from mahsm.xcs._scopes import Escaping, Scope


class StrandHost(Protocol):
    """The run of a program, as its strands see it."""

    def next_number(self) -> int:
        """Return the next number in the order of the program."""
        ...

    def wait_for(self, cell: Cell) -> None:
        """Wait until a cell is settled."""
        ...

    def cancel(self, cells: Collection[Cell]) -> None:
        """Cancel the steps of some cells, and wait for them."""
        ...


class Strand:
    """What began in one task of a program, in its order, with the scopes that are open there.

    A coroutine that the function hands to `asyncio.gather` or a task group runs beside the rest of it. An
    error belongs to the coroutine in which its step began, and so do the scopes and the changes there.

    Args:
        host: The run.

    Attributes:
        journal: The changes of containers.
        scopes: The scopes that are open, the innermost one last.
        path: Its place among the strands: that of the strand that began it, and its number there.
    """

    def __init__(self, host: StrandHost) -> None:
        self._host = host
        self._entries: list[Cell] = []
        self._most_entries = 1_000
        self.journal = Journal()
        self.scopes: list[Scope] = []
        self.path: tuple[int, ...] = ()
        self._branches = 0
        self._steps = 0

    @property
    def _mark(self) -> int:
        return self.scopes[-1].mark if self.scopes else 0

    def branch(self) -> tuple[int, ...]:
        """Return the path of the next strand that begins here."""
        self._branches += 1
        return (*self.path, self._branches)

    def next_label(self) -> str:
        """Return what tells the next step here from all others; "" in the function's own code."""
        self._steps += 1
        return ".".join(map(str, (*self.path, self._steps))) if self.path else ""

    def add(self, cell: Cell) -> None:
        """Add a cell, whose number is higher than those of the cells before."""
        self._entries.append(cell)
        if len(self._entries) > self._most_entries:
            self._entries = [one for one in self._entries if not one.is_settled or one.error is not None]
            self._most_entries = 2 * len(self._entries) + 1_000

    def enter(self, scope: Scope) -> None:
        scope.mark = self._host.next_number()
        self.scopes.append(scope)

    def leave(self, scope: Scope) -> None:
        self.scopes.remove(scope)

    def first_error(self, cell: Cell) -> BaseException:
        """Return the error to raise where a failed value is used: that of the first step that failed.

        It escapes from a `try` that began after the step: the plain function would not have reached it.
        """
        return self._raised(self._first_failed(self._mark, cell.number) or cell)

    def _raised(self, failed: Cell) -> BaseException:
        assert failed.error is not None
        return Escaping(failed.error, failed.number) if failed.number < self._mark else failed.error

    def _first_failed(self, mark: int, end: float) -> Cell | None:
        """Wait for the cells from one number to another, in their order; return the first that failed."""
        for entry in self._between(mark, end):
            if not entry.is_settled:
                self._host.wait_for(entry)
            if entry.error is not None:
                return entry
        return None

    def _between(self, mark: int, end: float) -> list[Cell]:
        first = bisect.bisect_left(self._entries, mark, key=lambda cell: cell.number)
        return [cell for cell in self._entries[first:] if cell.number < end]

    def wait(self) -> None:
        """Wait for everything that has begun, whether it fails or not."""
        for entry in list(self._entries):
            if not entry.is_settled:
                self._host.wait_for(entry)

    def succeed(self, mark: int = 0) -> None:
        """Wait for everything that began since a number.

        Raises:
            BaseException: the error of the first that failed; it escapes from scopes that began after that.
        """
        failed = self._first_failed(mark, float("inf"))
        if failed is not None:
            raise self._raised(failed)

    def settle(self, mark: int, *, drop: bool = True) -> None:
        """Wait for everything that began since a number.

        Raises:
            BaseException: the error of the first that failed; what began after it is cancelled.
        """
        failed = self._first_failed(mark, float("inf"))
        if failed is not None:
            assert failed.error is not None
            self.journal.undo(failed.number)
            raise failed.error
        if drop:
            self._drop(mark)

    def left_by(self, mark: int, error: BaseException) -> BaseException:
        """Return the error with which a block is left that began at a number, and cancel what began in it.

        The plain function would have met the errors of earlier steps first.
        """
        if isinstance(error, Escaping):
            if error.number < mark:
                self.journal.undo(error.number)
                self._drop(mark)
                return error
            error = error.error
        if isinstance(error, Exception):
            entries = self._between(mark, float("inf"))
            at = next((entry.number for entry in entries if entry.error is error), float("inf"))
            failed = self._first_failed(mark, at)
            if failed is not None and failed.error is not None:
                error, at = failed.error, failed.number
            self.journal.undo(at)
        self._drop(mark)
        return error

    def _drop(self, mark: int) -> None:
        """Cancel what began since a number and has not ended, wait for it, and forget it."""
        first = bisect.bisect_left(self._entries, mark, key=lambda cell: cell.number)
        dropped = self._entries[first:]
        del self._entries[first:]
        self._host.cancel(dropped)
