"""`vmap` of a `jit_edge`: one computation for all items."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from langchain_core.runnables import RunnableConfig

from mahsm._progress import Progress
from mahsm._progress import progress as show_progress
from mahsm._state import as_dict, batch, read, shown
from mahsm._types import Overlay, State
from mahsm.edges._bound import ambient_runtime
from mahsm.edges._edge import Edge
from mahsm.edges._jit import JitEdge
from mahsm.edges._vmap_spec import VmapSpec
from mahsm.errors import EdgeError
from mahsm.policies import ItemError
from mahsm.policies._item_error import item_error

_MEANINGLESS = {
    "timeout": None,
    "retry": None,
    "rate_limit": None,
    "adaptive": None,
    "hedge": None,
    "budget": None,
    "deadline": None,
    "stop_when": None,
    "dedupe_key": None,
    "cache": None,
    "chunk_size": None,
}
"""What holds for calls, and their values when nothing was said: here are no calls."""


def jit_vmap(edge: str, spec: VmapSpec, target: JitEdge) -> Edge:
    """An edge that computes the target for all items at once.

    Raises:
        EdgeError: for arguments that mean nothing where no item is called by itself.
    """
    for argument, unset in _MEANINGLESS.items():
        if (value := getattr(spec, argument)) != unset:
            raise EdgeError(
                f"{edge}: {argument}={shown(value)} has no effect, since all items of a jit_edge are one computation. Leave it "
                f"out, or call the items one by one: vmap({target.name}.invoke, ...)."
            )
    lowered = _JitVmap(spec, target)
    writes = [spec.out_key] if spec.errors_key is None else [spec.out_key, spec.errors_key]
    return Edge(lowered.run, lowered.run_async, name=spec.name, graph=target.graph, reads=[spec.batch_key], writes=writes)


class _JitVmap:
    def __init__(self, spec: VmapSpec, target: JitEdge) -> None:
        self._spec = spec
        self._target = target

    async def run_async(self, state: Any, config: RunnableConfig) -> State:
        return await asyncio.to_thread(self.run, state, config)

    def run(self, state: Any, config: RunnableConfig) -> State:
        with show_progress() if self._spec.progress else nullcontext():
            return self._run(as_dict(state))

    def _run(self, values: State) -> State:
        spec = self._spec
        items = batch(read(values, spec.batch_key, spec.name, "batch_key"), spec.name, spec.batch_key, "batch_key")
        if spec.failures_allowed(len(items)) < 0:
            raise spec.too_few(0, len(items))
        runtime = ambient_runtime()
        progress = Progress(spec.name, len(items), runtime.stream_writer if runtime else None)
        failed: dict[int, Exception] = {}
        overlays: dict[int, Overlay] = _each(spec.overlay, dict(enumerate(items)), failed)
        outcomes: dict[int, Any] = {}
        if overlays:
            self._check_reads(next(iter(overlays.values())))
            found = self._target.program.batch(values, list(overlays.values()))
            for index, outcome in zip(overlays, found, strict=True):
                if isinstance(outcome, Exception):
                    failed[index] = outcome
                else:
                    outcomes[index] = outcome
        entries = _each(spec.entry, outcomes, failed)
        progress.end(errors=len(failed))
        return self._update(items, entries, failed)

    def _check_reads(self, overlay: Overlay) -> None:
        target = self._target.spec
        if not target.seeds and not any(key in overlay for key in target.reads):
            raise EdgeError(
                f"{self._spec.name}: {target.name} reads {', '.join(map(repr, target.reads))}, and the items have "
                f"{', '.join(map(repr, overlay)) or 'no keys'}, so all results would be the same. Pass item_to_state= with a "
                "key that it reads."
            )

    def _update(self, items: list[Any], entries: dict[int, Any], failed: dict[int, Exception]) -> State:
        spec, errors = self._spec, dict[int, ItemError]()
        for index, error in sorted(failed.items()):
            error.add_note(f"mahsm: {spec.name}, item {index} of {len(items)}")
            if spec.on_error == "raise":
                raise error
            errors[index] = item_error(error, edge=spec.name, index=index, item=items[index], attempts=1)
        if len(failed) > spec.failures_allowed(len(items)):
            raise spec.too_few(len(failed), len(items)) from failed[min(failed)]
        kept = entries if spec.on_error == "drop" else {**entries, **errors}
        update: State = {spec.out_key: [kept[index] for index in sorted(kept)]}
        if spec.errors_key is not None:
            update[spec.errors_key] = list(errors.values())
        return update


def _each(function: Callable[[Any], Any], values: dict[int, Any], failed: dict[int, Exception]) -> dict[int, Any]:
    """The function of each value; those that it fails for are noted."""
    done: dict[int, Any] = {}
    for index, value in values.items():
        try:
            done[index] = function(value)
        except Exception as error:  # noqa: BLE001  the policy decides
            failed[index] = error
    return done
