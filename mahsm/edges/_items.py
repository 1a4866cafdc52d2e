"""An item of an edge run while it is called: the slots that it holds, and lends to the edges inside it."""

import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar

from mahsm._slots import Order, Slots, acquire_all, acquire_all_async, release_all


class Item:
    """One item: while its target is called, it holds a slot of each edge run that it is in.

    Attributes:
        order: Its path of indices through nested edges, such as `(3, 0)`.
        chain: The slots that it takes, its own edge run's first.
    """

    __slots__ = ("_held", "_inside", "_lock", "chain", "order")

    def __init__(self, order: Order, chain: Sequence[Slots]) -> None:
        self.order = order
        self.chain = chain
        self._held = False
        self._inside = 0  # edges that run inside the item now
        self._lock = threading.Lock()

    async def take_async(self) -> None:
        if len(self.chain) > 1 or not self.chain[0].try_acquire():  # the rule, where no edge is around or inside
            await acquire_all_async(self.chain, self.order)
        self._held = True

    def take(self) -> None:
        acquire_all(self.chain, self.order)
        self._held = True

    def give(self) -> None:
        if self._held:
            self._held = False
            release_all(self.chain)

    def enter(self) -> None:
        """An edge begins inside the item: its items take the slots from now on."""
        with self._lock:
            self._inside += 1
            first = self._inside == 1
        if first:
            self.give()

    def leave(self) -> bool:
        """An edge inside the item has ended: whether it was the last one."""
        with self._lock:
            self._inside -= 1
            return self._inside == 0


current_item: ContextVar[Item | None] = ContextVar("mahsm_current_item", default=None)
"""The item whose target is being called here, if any."""


@contextmanager
def lent() -> Generator[None, None, None]:
    """Lend the slots of the current item, if there is one, to the edge that runs in the block."""
    item = current_item.get()
    if item is None:
        yield
        return
    item.enter()
    try:
        yield
    except Exception:
        if item.leave():
            item.take()
        raise
    except BaseException:  # the item is being stopped: it takes nothing any more
        item.leave()
        raise
    if item.leave():
        item.take()


@asynccontextmanager
async def lent_async() -> AsyncGenerator[None, None]:
    """The asynchronous twin of `lent`."""
    item = current_item.get()
    if item is None:
        yield
        return
    item.enter()
    try:
        yield
    except Exception:
        if item.leave():
            await item.take_async()
        raise
    except BaseException:
        item.leave()
        raise
    if item.leave():
        await item.take_async()
