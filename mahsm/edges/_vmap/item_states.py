"""The states with which a `vmap` calls its target: the parent's, with the keys of an item over it."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mahsm._common import Overlay, State
from mahsm.data._internal import BadRow
from mahsm.edges._vmap.spec import VmapSpec
from mahsm.errors import EdgeError


class ItemStates:
    """The states of the items of one run.

    Args:
        spec: The specification.
        state: The parent's state.
        batch: The batch.

    Attributes:
        inherited: The part of the parent's state that targets see.
    """

    def __init__(self, spec: VmapSpec, state: State, batch: Sequence[Any]) -> None:
        self._spec = spec
        self._state = state
        self._batch = batch
        self._overlays: dict[int, Overlay] = {}
        self.inherited = spec.inherited(state)

    def of(self, place: int) -> tuple[State, Overlay]:
        """Return the state of the item at this place, and the part of it that is the item's own.

        Raises:
            Exception: if its row could not be read, or its state cannot be made.
        """
        item = self._batch[place]
        if type(item) is BadRow:
            raise item.error
        overlay = self._overlays.get(place) or self._spec.overlay(item)
        return {**self.inherited, **overlay}, overlay

    def check_first(self, firsts: Sequence[int]) -> None:
        """Check that the first of these items reaches the target, if that is a graph.

        A mismatch is a mistake in the edge and not a failed item, and LangGraph would not report it.

        Raises:
            EdgeError: if the item has none of the graph's input keys.
        """
        target = self._spec.target
        keys = target.input_keys
        if keys is None or not firsts:
            return
        first = firsts[0]
        # An item whose state cannot be made fails when its turn comes.
        with suppress(Exception):
            self._overlays[first] = self._spec.overlay(self._batch[first])
        overlay = self._overlays.get(first, {})
        if overlay and keys.isdisjoint(overlay):
            raise EdgeError(
                f"{self._spec.name}: an item has the keys {', '.join(map(repr, overlay))}, but the input of "
                f"the graph {target.name!r} has only {', '.join(map(repr, sorted(keys)))}. Pass "
                "item_to_state= with one of these keys."
            )

    def compute(self, places: Sequence[int]) -> None:
        """Let the target compute the batched part of its work, and lay the results over the items' states."""
        batched = self._spec.target.batched
        if batched is None:
            return
        found: dict[int, Overlay] = {}
        for place in places:
            # An item whose state cannot be made fails when its turn comes.
            with suppress(Exception):
                found[place] = self._spec.overlay(self._batch[place])
        self._overlays = dict(zip(found, batched(self._state, list(found.values())), strict=True))
