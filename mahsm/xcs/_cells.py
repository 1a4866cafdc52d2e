"""Cells: the state behind pending values, which steps settle and other values are derived from."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from mahsm._waiting import Turn


class Consumer(Protocol):
    """A step or a derived value that needs the value of a cell."""

    def arrived(self, cell: "Cell") -> None:
        """Take the value or the error of a cell; called once for each cell that it needs."""
        ...


class Host(Protocol):
    """The run of a jitted function that a cell belongs to.

    Attributes:
        lock: Guards the states of its cells; one for all, since making a lock takes longer than using it.
    """

    lock: threading.Lock

    def wait_for(self, cell: "Cell") -> None:
        """Wait, in the code of the function, until the cell is settled."""
        ...

    def new_cell(self, steps: tuple[int, ...]) -> "Cell":
        """Make the cell of a value that follows from steps."""
        ...

    def derived(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function of values, some of which may be pending, when they are there."""
        ...

    def attribute(self, owner: Any, name: str) -> Any:
        """Return an attribute of a pending value."""
        ...

    def item_of_pending(self, owner: Any, key: Any) -> Any:
        """Return an item of a pending value."""
        ...

    def first_error(self, cell: "Cell") -> BaseException:
        """Return the error to raise where the value of a failed cell is used."""
        ...


class Cell:
    """A value that is computed once, and then told to all that need it.

    Attributes:
        number: Its place in the order of the program.
        host: The run that it belongs to.
        steps: The numbers of the steps that it follows from.
        value: The value, when the cell is settled without an error.
        error: The error, when it is settled with one.
        is_settled: True when its value or error may be read.
        is_text: True if the value is known to be immutable, such as a string.
        owner: The pending value and the attribute, if the cell is an attribute of another value.
    """

    # The order of reading and changing.
    #
    # A function may change a value that a step gave it, and expects that whatever it computed from the value
    # before, or passed it to before, has seen the value as it was. So all consumers that were added to a cell
    # take the value, in the order in which they were added, before the cell counts as settled; and only then
    # may the function's own code get it. Consumers that need several values keep a copy of those that can
    # change until all are there.

    __slots__ = (
        "_consumers",
        "_turns",
        "error",
        "host",
        "is_settled",
        "is_text",
        "number",
        "owner",
        "steps",
        "value",
    )

    def __init__(self, number: int, host: Host, steps: tuple[int, ...]) -> None:
        self.number = number
        self.host = host
        self.steps = steps
        self.value: Any = None
        self.error: BaseException | None = None
        self.is_settled = False
        self.is_text = False
        self.owner: tuple[Any, str] | None = None
        self._consumers: deque[Consumer] = deque()
        self._turns: list[Turn] = []

    def add(self, consumer: Consumer) -> None:
        """Tell a consumer the value as soon as it is there."""
        with self.host.lock:
            if not self.is_settled:
                self._consumers.append(consumer)
                return
        consumer.arrived(self)

    def wake(self, turn: Turn) -> None:
        """Wake a turn when the cell is settled."""
        with self.host.lock:
            if not self.is_settled:
                self._turns.append(turn)
                return
        turn.wake()

    def settle(self, value: Any, error: BaseException | None = None) -> None:
        """Set the value or the error, and tell it to all consumers. Later calls have no effect."""
        settling.run(lambda: self._settle(value, error))

    def _settle(self, value: Any, error: BaseException | None) -> None:
        with self.host.lock:
            if self.is_settled or self.error is not None:
                return
            self.value, self.error = value, error
        while True:
            with self.host.lock:
                if not self._consumers:
                    self.is_settled = True
                    break
                consumer = self._consumers.popleft()
            consumer.arrived(self)
        for turn in self._turns:
            turn.wake()
        self._turns.clear()


class _Settling(threading.local):
    """Settles cells one after the other, so that long chains of derived values need no deep stack.

    Attributes:
        keeps_next: True while the thread ends a step, and may run a further one itself.
        next_step: Begins the step that the thread runs next.
    """

    # Values are computed, and steps begin, while a cell is being settled. A step whose arguments have come by
    # the end of another one may run in the same thread, which is about to be free; that saves a switch of
    # threads for each step of a chain. What is computed may be code of the user's, which may run a jitted
    # function of its own, and wait for it; so in there nothing is put off.

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] | None = None
        self.keeps_next = False
        self.next_step: Callable[[], None] | None = None

    def run(self, action: Callable[[], None]) -> None:
        """Settle a cell, after those that are being settled in this thread."""
        if self._waiting is not None:
            self._waiting.append(action)
            return
        self._waiting = deque([action])
        try:
            while self._waiting:
                self._waiting.popleft()()
        finally:
            self._waiting = None

    def compute(self, function: Callable[[], Any]) -> Any:
        """Call a function while a cell is being settled."""
        kept = self._waiting, self.keeps_next
        self._waiting, self.keeps_next = None, False
        try:
            return function()
        finally:
            self._waiting, self.keeps_next = kept


settling = _Settling()
