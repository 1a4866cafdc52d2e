"""Seats: who is open in a fan-out, and whether all of them wait for an answer of a job."""

import threading
from collections.abc import Callable


class Seat:
    """An open item, with the items of edges inside it.

    It is *still* when nothing goes on without an answer: nobody in it is busy, somebody in it waits, and all
    seats inside it are still. Seats are counted, so no timer is needed to find out.

    Args:
        table: What all seats of a run share.
        around: The seat of the item around it, or None for that of the run.
    """

    __slots__ = (
        "_around",
        "_busy",
        "_has_left",
        "_inside",
        "_is_still",
        "_still_inside",
        "_table",
        "_waiting",
    )

    def __init__(self, table: "Table", around: "Seat | None" = None) -> None:
        self._table = table
        self._around = around
        self._busy = 0
        self._waiting = 0
        self._inside = 0
        self._still_inside = 0
        self._is_still = False
        self._has_left = False

    @property
    def is_still(self) -> bool:
        return self._is_still

    @property
    def lock(self) -> threading.RLock:
        """Guards the seats of the run."""
        return self._table.lock

    def inside(self) -> "Seat":
        """Return a new seat inside this one; `leave` it at its end."""
        with self._table.lock:
            self._inside += 1
            self._changed()
        return Seat(self._table, self)

    def leave(self) -> None:
        around = self._around
        assert around is not None
        with self._table.lock:
            # A thread that was left behind may still change it.
            self._has_left = True
            around._inside -= 1
            around._still_inside -= self._is_still
            self._is_still = False
            around._changed()

    def busy(self) -> "Counted":
        """Return a block that goes on without an answer: calls begin in it, or items."""
        return Counted(self, 1)

    def idle(self) -> "Counted":
        """Return a block, in a busy one, that waits for seats inside."""
        return Counted(self, -1)

    def waits(self) -> None:
        """Note that a call in `busy` waits for an answer from now on."""
        self._count(busy=-1, waiting=1)

    def goes_on(self) -> None:
        """Note that the call waits no more."""
        self._count(busy=1, waiting=-1)

    def _count(self, *, busy: int = 0, waiting: int = 0) -> None:
        with self._table.lock:
            self._busy += busy
            self._waiting += waiting
            self._changed()

    def _changed(self) -> None:
        """Find out whether this seat, and so those around it, are still."""
        seat = self
        while not seat._has_left:
            is_still = (
                not seat._busy and bool(seat._waiting or seat._inside) and seat._still_inside == seat._inside
            )
            if is_still == seat._is_still:
                return
            seat._is_still = is_still
            if seat._around is None:
                if is_still:
                    self._table.all_wait()
                return
            seat._around._still_inside += 1 if is_still else -1
            seat = seat._around


class Counted:
    """A block in which a seat is busier by a number. A generator would take three times the memory."""

    __slots__ = ("_by", "_seat")

    def __init__(self, seat: Seat, by: int) -> None:
        self._seat = seat
        self._by = by

    def __enter__(self) -> None:
        self._seat._count(busy=self._by)  # pyright: ignore[reportPrivateUsage]

    def __exit__(self, *_: object) -> None:
        self._seat._count(busy=-self._by)  # pyright: ignore[reportPrivateUsage]


class Table:
    """What all seats of one run share.

    Attributes:
        lock: Guards all of them.
        all_wait: Called, with the lock, when the run's seat becomes still.
    """

    def __init__(self, all_wait: Callable[[], object]) -> None:
        self.lock: threading.RLock = threading.RLock()
        self.all_wait = all_wait
