"""An item of an edge run while it is called: the slots that it holds, and lends to the edges inside it."""

import threading
from collections.abc import Callable, Sequence
from contextvars import Token
from types import TracebackType
from typing import Any, TypeAlias

from mahsm._waiting import (
    Order,
    Slots,
    StopCallbacks,
    Way,
    acquire_all,
    left_behind,
    release_all,
    try_acquire_all,
)
from mahsm.nodes._internal import Position, position

Writer: TypeAlias = Callable[[Any], object]
"""Writes an event to a stream."""


_NOTHING: frozenset[str] = frozenset()


class Item:
    """One item: while its target is called, it holds a slot of each edge run that it is in.

    Attributes:
        order: Its path of indices through nested edges, such as `(3, 0)`.
        chain: The slots that it takes, its own edge run's first.
        running: Stops the edges and calls inside its edge run.
        attempts: The number of its attempts, including the present one.
        began: `time.monotonic()` when its target was called, or None before.
        failure: The error that it is tried again after, if it is.
        is_hedge: True for the second call of an item that takes long.
        unparsed: Answers of its attempts that could not be parsed.
        is_unsaved: True if it counts as a call that is not saved: from its attempt on, unless that failed and
            there is a next one.
        writer: The stream of its task, which only streams of subgraphs show.
        over: Called with the error of a call of its target, or None, while it still holds its slots.
    """

    __slots__ = (
        "_edges",
        "_held",
        "_is_called",
        "_retakes",
        "_unsaved",
        "attempts",
        "began",
        "chain",
        "failure",
        "is_hedge",
        "is_unsaved",
        "order",
        "over",
        "running",
        "unparsed",
        "writer",
    )

    def __init__(
        self,
        order: Order,
        chain: Sequence[Slots],
        running: StopCallbacks,
        unsaved: Slots | None = None,
        writer: Writer | None = None,
    ) -> None:
        self.order = order
        self.chain = chain
        self.running = running
        self.attempts = 1
        self.began: float | None = None
        self.failure: BaseException | None = None
        self.is_hedge = False
        self.unparsed = _NOTHING
        self.is_unsaved = False
        self._unsaved = unsaved
        self.writer = writer
        self.over: Callable[[BaseException | None], object] | None = None
        # From here on under `_counting`. A call of the target that blocks a thread may go on in it after its
        # task was cancelled, and so after the slots were given back for good.
        self._held = False
        self._is_called = False
        # The number of edges that run inside the item now.
        self._edges = 0
        # True while a part of the item waits to take the lent slots back. Others do not: they would wait for
        # what the item itself holds.
        self._retakes = False

    @property
    def has_edges(self) -> bool:
        """True if an edge runs inside."""
        return self._edges > 0

    def take_now(self) -> bool:
        """Take the slots if they are free; return whether they were taken."""
        if self._unsaved is None and len(self.chain) == 1:
            self._held = self.chain[0].try_acquire() == 1
        else:
            self._held = try_acquire_all(self._to_take)
            self.is_unsaved |= self._held and self._unsaved is not None
        self._is_called = self._held
        return self._held

    async def take(self, way: Way) -> None:
        """Wait in line for the slots, and take them."""
        await acquire_all(way, self._to_take, self.order, left_behind.on_stop)
        self._held = self._is_called = True
        self.is_unsaved = self._unsaved is not None

    @property
    def _to_take(self) -> Sequence[Slots]:
        """The slots, preceded by a place among the unsaved calls, which is kept when they are given back."""
        return self.chain if self._unsaved is None or self.is_unsaved else (self._unsaved, *self.chain)

    def has_nothing(self) -> None:
        """Count the item as saved: its attempt failed and is repeated, or it was interrupted."""
        if self._unsaved is not None and self.is_unsaved:
            self.is_unsaved = False
            self._unsaved.release()

    def give(self) -> None:
        """Give the slots back at the end of a call."""
        with _counting:
            was_held, self._held, self._is_called = self._held, False, False
        if was_held:
            release_all(self.chain)

    def lend(self) -> None:
        """Lend the slots to an edge that begins inside the item."""
        with _counting:
            self._edges += 1
            was_held, self._held = self._held, False
        if was_held:
            release_all(self.chain)

    async def take_back(self, way: Way) -> None:
        """Take the slots back at the end of an edge inside the item, if it was the last one."""
        if not self._ended_inside():
            return
        try:
            await acquire_all(way, self.chain, self.order, left_behind.on_stop)
        except BaseException:
            with _counting:
                self._retakes = False
            raise
        with _counting:
            self._retakes = False
            keeps = self._is_called and not (self._edges or self._held)
            self._held |= keeps
        if not keeps:
            release_all(self.chain)

    def stays_without(self) -> None:
        """Note the end of an edge inside an item that is being stopped, and needs no slots any more."""
        with _counting:
            self._edges -= 1

    def _ended_inside(self) -> bool:
        """Note the end of an edge inside the item; return whether slots are to be taken back."""
        with _counting:
            self._edges -= 1
            takes = self._is_called and not (self._edges or self._held or self._retakes)
            self._retakes |= takes
            return takes


# One lock for all items: these are many, and edges inside them rarely begin and end.
_counting = threading.Lock()


def current_item() -> Item | None:
    """Return the item whose target is being called here, if any."""
    return position.get().item


def enter_item(item: Item) -> Token[Position]:
    """Make this the current item of the context from now on."""
    return position.set(position.get().at(item))


class lent:
    """A block that lends the slots of the current item, if any, to the edge that runs in it.

    They are taken back at its end, unless the block is left because the item is being stopped.

    Args:
        way: How to wait for them.
    """

    __slots__ = ("_item", "_way")

    def __init__(self, way: Way) -> None:
        self._way = way
        self._item = current_item()

    async def __aenter__(self) -> None:
        if self._item is not None:
            self._item.lend()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._item is None:
            return
        if error is None or isinstance(error, Exception):
            await self._item.take_back(self._way)
        else:
            self._item.stays_without()
