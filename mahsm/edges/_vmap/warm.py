"""Warm prompt caches: the first items of each key run by themselves until a model has answered one of them.

A provider's cache holds the beginning of a prompt once an answer to that prompt has begun. Items that are
sent together with the first one find nothing there, and pay for their whole prompts.
"""

import sys
import threading
from collections.abc import Callable, Generator, Hashable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mahsm._common import Answer, check, shown
from mahsm._model_calls import Meter, metered
from mahsm._waiting import Closed, Slots, StopCallbacks, Turn, Way
from mahsm.data._internal import BadRow
from mahsm.errors import EdgeError, StateError


@dataclass(frozen=True)
class Warm:
    """The items that run before others, so that a provider's prompt cache is warm for these.

    Attributes:
        warm: How many of them may run, of each key; 0 for none.
        warm_key: Maps an item to its key; None if all items have the same.
    """

    warm: int = 0
    warm_key: Callable[[Any], Hashable] | None = None

    def check(self, edge: str) -> None:
        """Refuse invalid options.

        Raises:
            EdgeError: for the first one that is invalid.
        """
        if isinstance(self.warm, bool) or not isinstance(self.warm, int) or self.warm < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EdgeError(
                f"{edge}: warm={shown(self.warm)}; expected the number of items that run before the others, "
                "an integer >= 0. Pass warm=1, or leave it out."
            )
        check.function(edge, "warm_key", self.warm_key, "a function from an item to a key, such as the model")
        if self.warm_key is not None and not self.warm:
            raise EdgeError(
                f"{edge}: warm_key={shown(self.warm_key)} has no effect with warm=0. Pass warm=1, which lets "
                "the first item of each key run before the others."
            )

    def refuse_with(self, edge: str, option: str, why: str) -> None:
        """Refuse another option, with which no item could be the first.

        Raises:
            EdgeError: if items are to run before others.
        """
        if self.warm:
            raise EdgeError(f"{edge}: warm={self.warm} with {option}: {why}. Leave one of them out.")


class Warming:
    """The items of one run that warm a cache, and those that wait for it.

    An item that waits holds no slot and no tokens. If a warming item fails, or was answered from a cache of
    the client's, the next one of its key takes its turn. If it ends without a call that is observed, the
    others begin.

    Args:
        warm: The options.
        edge: The edge's name.
        batch: The items.
        not_begun: Stops waits to begin.
    """

    # Each key has `Slots`, as many as items may warm it. An item takes one to begin. It is not given back at
    # the end of the item, but only if the item has not warmed the cache, so that the next one tries. When the
    # cache is warm, there are slots for all.

    def __init__(self, warm: Warm, edge: str, batch: Sequence[Any], not_begun: StopCallbacks) -> None:
        self._warm = warm
        self._edge = edge
        self._batch = batch
        self._not_begun = not_begun
        self._lock = threading.Lock()
        self._keys: dict[Hashable, Slots] = {}
        # Of items that have not ended, so that the function of the user's is called once for each.
        self._of_places: dict[int, Slots] = {}
        self._turns: list[Turn] = []

    async def ready(self, way: Way, places: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the places of items that may begin, and those that are left; wait until there is one.

        Raises:
            Closed: if the run ends or stops while items wait.
        """
        while not (found := self._taken(places)):
            turn = way.turn()
            with self._lock:
                self._turns.append(turn)
            # Once more, since a key may have changed meanwhile.
            if found := self._taken(places):
                break
            await self._changed(turn)
        begin = set(found)
        return found, [place for place in places if place not in begin]

    async def begin(self, way: Way, place: int) -> None:
        """Wait until the item at this place may begin.

        Raises:
            Closed: if the run ends or stops while it waits.
        """
        if (slots := self._slots(place)) is not None:
            await slots.acquire(way, (place,), on_stop=self._not_begun.on_stop)

    def give_up(self, place: int) -> None:
        """Let the next item begin in the place of one that does not warm the cache."""
        if (slots := self._of_places.pop(place, None)) is not None:
            slots.release()
            self._tell()

    @contextmanager
    def item(self, place: int) -> Generator[None, None, None]:
        """Return a block that is the work of an item that may begin."""
        slots = self._slots(place)
        if slots is None or slots.limit == _ALL:
            self._of_places.pop(place, None)
            yield
            return
        heard = _Heard(lambda: self._is_warm(slots))
        try:
            with metered(heard):
                yield
        except BaseException:
            self.give_up(place)
            raise
        if heard.cached and heard.cached == heard.answers:
            self.give_up(place)
            return
        self._of_places.pop(place, None)
        self._is_warm(slots)

    def _is_warm(self, slots: Slots) -> None:
        with self._lock:
            if slots.limit == _ALL:
                return
            slots.resize(_ALL)
        self._tell()

    def _taken(self, places: Sequence[int]) -> list[int]:
        """Take a slot for each of these places whose item may begin; return these."""
        return [place for place in places if (slots := self._slots(place)) is None or slots.try_acquire()]

    def _tell(self) -> None:
        with self._lock:
            turns, self._turns = self._turns, []
        for turn in turns:
            turn.wake()

    async def _changed(self, turn: Turn) -> None:
        with self._not_begun.on_stop(lambda _: turn.wake()):
            await turn.wait()
        if (reason := self._not_begun.reason) is not None:
            raise Closed(reason)

    def _slots(self, place: int) -> Slots | None:
        """Return the slots of an item's key; None of an item that cannot be called."""
        if (known := self._of_places.get(place)) is not None:
            return known
        item = self._batch[place]
        if type(item) is BadRow:
            return None
        key = None if self._warm.warm_key is None else self._warm.warm_key(item)
        with self._lock:
            try:
                slots = self._keys.get(key)
            except TypeError:
                raise StateError(
                    f"{self._edge}: warm_key returned {shown(key)} for item {place}, which is not "
                    "hashable. Return a string, a number, or a tuple of these."
                ) from None
            if slots is None:
                slots = self._keys[key] = Slots(self._warm.warm)
            self._of_places[place] = slots
            return slots


_ALL = sys.maxsize


class _Heard(Meter):
    """The answers of models to one item.

    Args:
        answered: Called when the first one that is no cached one has come.
    """

    def __init__(self, answered: Callable[[], object]) -> None:
        super().__init__()
        self._answered = answered

    def end_call(self, answer: Answer | None) -> None:
        super().end_call(answer)
        if answer is not None and not answer.cached:
            self._answered()
