"""An item of an edge run while it is called: the slots that it holds, and lends to the edges inside it."""

import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Token
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
"""Takes events of a stream."""


_NOTHING: frozenset[str] = frozenset()


class Item:
    """One item: while its target is called, it holds a slot of each edge run that it is in.

    Attributes:
        order: Its path of indices through nested edges, such as `(3, 0)`.
        chain: The slots that it takes, its own edge run's first.
        running: What runs inside its edge run.
        attempts: How often it has been tried, the present attempt included.
        began: `time.monotonic()` when its target was called, or None before.
        failure: Why it is tried again, if it is.
        is_hedge: Whether it is the second call of an item that takes long.
        unparsed: Answers that attempts of it could not be parsed from.
        is_unsaved: Whether it counts as a call that is not saved: from its attempt on, unless that failed and
            there is a next one.
        writer: The stream of its task, which only those see who stream subgraphs.
        over: Is told how a call of its target has ended, while it still holds its slots.
    """

    __slots__ = (
        "_edges",
        "_held",
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
        self._held = False
        self._edges = 0  # edges that run inside the item now

    @property
    def has_edges(self) -> bool:
        """Whether an edge runs inside."""
        return self._edges > 0

    def take_now(self) -> bool:
        """Take the slots if that needs no waiting, as is the rule where no edge is around or inside."""
        if self._unsaved is None and len(self.chain) == 1:
            self._held = bool(self.chain[0].try_acquire())
        else:
            self._held = try_acquire_all(self._to_take)
            self.is_unsaved |= self._held and self._unsaved is not None
        return self._held

    async def take(self, way: Way) -> None:
        """Take the slots, waiting in line."""
        await acquire_all(way, self._to_take, self.order, left_behind.on_stop)
        self._held, self.is_unsaved = True, self._unsaved is not None

    @property
    def _to_take(self) -> Sequence[Slots]:
        """The slots, and before them the right to be not saved, which is kept when they are given back."""
        return self.chain if self._unsaved is None or self.is_unsaved else (self._unsaved, *self.chain)

    def has_nothing(self) -> None:
        """The attempt gave nothing that could be lost: there is going to be another one, or it was
        interrupted.
        """
        if self._unsaved is not None and self.is_unsaved:
            self.is_unsaved = False
            self._unsaved.release()

    def give(self) -> None:
        if self._held:
            self._held = False
            release_all(self.chain)

    def enter(self) -> None:
        """An edge begins inside the item: its items take the slots from now on."""
        with _counting:
            self._edges += 1
            first = self._edges == 1
        if first:
            self.give()

    def leave(self) -> bool:
        """An edge inside the item has ended: whether it was the last one."""
        with _counting:
            self._edges -= 1
            return self._edges == 0


_counting = threading.Lock()  # one for all: edges begin and end rarely, items often


def current_item() -> Item | None:
    """Return the item whose target is being called here, if any."""
    return position.get().item


def enter_item(item: Item) -> Token[Position]:
    """From now on, in this context, the target of an item is called."""
    return position.set(position.get().at(item))


@asynccontextmanager
async def lent(way: Way) -> AsyncGenerator[None, None]:
    """Lend the slots of the current item, if there is one, to the edge that runs in the block.

    They are taken back at its end; not, though, when the block is left because the item is being stopped.
    """
    item = current_item()
    if item is None:
        yield
        return
    item.enter()
    try:
        yield
    except BaseException as error:
        if item.leave() and isinstance(error, Exception):
            await item.take(way)
        raise
    if item.leave():
        await item.take(way)
