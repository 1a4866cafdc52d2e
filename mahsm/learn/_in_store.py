"""A router's memory in a store of LangGraph: an item for the state, and one for each choice since."""

from collections.abc import Sequence
from typing import Any

from langgraph.store.base import BaseStore

from mahsm.learn._memory import Chose, Rewarded, Saved

_STATE = "state"
_LONG = 500
_MOST = 10_000_000


class InStore:
    """Items of a `BaseStore`.

    A reward is written into the item of its choice, in one operation. When the state is saved, rewarded
    items are deleted afterwards. A state counts the rewards in it, so those that a kill leaves are not
    learned twice.

    Args:
        store: The store; its sync methods are used.
        name: The name of the router, of which the namespace is made.
    """

    def __init__(self, store: BaseStore, name: str) -> None:
        self._store = store
        self._namespace = ("mahsm", "routers", name)
        self._open: dict[int, dict[str, Any]] = {}
        self._done: list[str] = []

    def recall(self) -> tuple[Saved | None, Sequence[Chose | Rewarded]]:
        item = self._store.get(self._namespace, _STATE)
        saved = None if item is None else Saved.of_json(f"{self._store!r}", item.value)
        chosen: list[Chose] = []
        rewards: list[Rewarded] = []
        # In one search: stores do not promise the same order for each page.
        found = self._store.search(self._namespace, limit=_MOST)
        for each in (item for item in found if item.key != _STATE):
            value = each.value
            chosen.append(Chose(value["chose"], value["arm"], value["features"]))
            if value["order"] is None:
                self._open[value["chose"]] = value
            else:
                self._done.append(each.key)
                rewards.append(Rewarded(value["chose"], value["reward"], value["order"]))
        learned = 0 if saved is None else saved.rewards
        # Those that the state has learned are choices of the past.
        past = {each.number for each in rewards if each.order <= learned}
        waiting = [each for each in chosen if each.number not in past]
        new = [each for each in rewards if each.number not in past]
        waiting.sort(key=lambda each: each.number)
        new.sort(key=lambda each: each.order)
        return saved, [*waiting, *new]

    def append(self, event: Chose | Rewarded) -> None:
        if isinstance(event, Chose):
            value = event.as_json() | {"reward": None, "order": None}
        else:
            value = self._open[event.number] | {"reward": event.value, "order": event.order}
        self._store.put(self._namespace, _key(event.number), value, index=False)
        if isinstance(event, Chose):
            self._open[event.number] = value
        else:
            del self._open[event.number]
            self._done.append(_key(event.number))

    def is_long(self) -> bool:
        return len(self._done) >= _LONG

    def save(self, state: Saved) -> None:
        # Items of waiting choices are there already.
        value = state.as_json()
        value["waiting"] = []
        self._store.put(self._namespace, _STATE, value, index=False)
        waiting = {each.number for each in state.waiting}
        gone = [number for number in self._open if number not in waiting]
        for key in {*self._done, *map(_key, gone)}:
            self._store.delete(self._namespace, key)
        for number in gone:
            del self._open[number]
        self._done = []


def _key(number: int) -> str:
    return f"choice-{number}"
