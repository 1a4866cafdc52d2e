"""`Batch`: where the items of a `vmap` come from."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langgraph.cache.base import BaseCache

from mahsm._common import Overlay, State, check, shown
from mahsm.edges._vmap.cache import DedupeKey
from mahsm.errors import EdgeError, NodeError
from mahsm.nodes._internal import Target


@dataclass(frozen=True)
class Batch:
    """The source of the items, and which of them need no call.

    Attributes:
        batch_key: State key of the items.
        batch: In place of a key, a function of the state that returns them.
        sample: In place of a batch, the number of calls on one state.
        item_to_state: Maps an item to state keys.
        dedupe_key: Maps an item to a key; items with equal keys are called once.
        cache: A LangGraph cache of the items' updates.
    """

    batch_key: str | None = None
    batch: Callable[[State], Any] | None = None
    sample: int | None = None
    item_to_state: Callable[[Any], Overlay] | None = None
    dedupe_key: DedupeKey | None = None
    cache: BaseCache[Any] | None = None

    @property
    def label(self) -> str:
        """The label in drawings, on the arrow to the target."""
        if self.batch is not None:
            return "each of batch"
        return f"{self.sample} samples" if self.batch_key is None else f"each of {self.batch_key}"

    @property
    def reads(self) -> list[str]:
        """The state keys that it reads."""
        return [] if self.batch_key is None else [self.batch_key]

    def check(self, edge: str) -> None:
        """Refuse invalid options.

        Raises:
            EdgeError: for the first one that is invalid.
        """
        check.function(
            edge, "item_to_state", self.item_to_state, "a function from an item to a dict of state keys"
        )
        check.function(
            edge,
            "dedupe_key",
            self.dedupe_key,
            "a function from an item to a key; equal keys are called once",
        )
        check.of_type(edge, "cache", self.cache, BaseCache, "a LangGraph cache, such as InMemoryCache()")
        if sum(value is not None for value in (self.batch_key, self.batch, self.sample)) != 1:
            raise EdgeError(
                f"{edge}: batch_key={self.batch_key!r}, batch={shown(self.batch)} and "
                f"sample={self.sample!r}; expected one of them: the state key of the items, a function that "
                "returns them, or the number of calls on one state."
            )
        if self.batch_key is not None:
            check.key(edge, "batch_key", self.batch_key)
        elif self.batch is not None:
            self._check_function(edge)
        else:
            self._check_sample(edge)

    def _check_function(self, edge: str) -> None:
        check.function(edge, "batch", self.batch, "a function from the state to a list of items")
        if inspect.iscoroutinefunction(self.batch):
            raise EdgeError(
                f"{edge}: batch={shown(self.batch)} is async; expected a plain function. Find the items in "
                "an earlier node."
            )

    def _check_sample(self, edge: str) -> None:
        check.whole(edge, "sample", self.sample, "It is the number of answers to draw.")
        for argument, value in {"dedupe_key": self.dedupe_key, "cache": self.cache}.items():
            if value is not None:
                raise EdgeError(
                    f"{edge}: {argument}= has no effect with sample={self.sample}, whose calls are alike on "
                    "purpose. Leave it out."
                )

    def check_target(self, edge: str, target: Target) -> None:
        """Refuse a target that takes an item where it would get a state.

        Raises:
            NodeError: if the target is one.
        """
        if self.sample is not None and target.item not in (None, "int"):
            raise NodeError(
                f"{edge}: the target {target.name} takes one {target.item}, an item, but the items of "
                f"sample={self.sample} are integers, and each call is for the same state. Let the target "
                "take the state."
            )
        if target.item is not None and self.item_to_state is not None:
            raise NodeError(
                f"{edge}: the target {target.name} takes one {target.item}, an item, but item_to_state= "
                "maps each item to state keys. Leave item_to_state out, or let the target take the state."
            )
