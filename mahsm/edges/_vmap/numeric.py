"""`vmap` of a `jit_edge`: one computation for all items."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

from langchain_core.runnables import RunnableConfig

from mahsm import _spans
from mahsm._common import Overlay, State, add_note, as_dict, shown
from mahsm._numeric import BatchResult
from mahsm._progress import Progress
from mahsm._progress import progress as show_progress
from mahsm._waiting import THREAD, Way, sides
from mahsm.edges._jit import JitEdge, drawn_steps
from mahsm.edges._shared.edge import Edge
from mahsm.edges._shared.graph_limit import ambient_runtime
from mahsm.edges._shared.session import is_looked_at, session
from mahsm.edges._vmap.spec import VmapSpec
from mahsm.errors import EdgeError
from mahsm.policies import ItemError
from mahsm.policies._internal import item_error

_WITH_EFFECT = {
    "batch_key",
    "batch",
    "item_to_state",
    "min_success",
    "max_concurrency",
    "preserve_order",
    "batch_size",
}
"""Options that apply to a computation, or that every computation fulfils. All others are refused."""


def jit_vmap(edge: str, spec: VmapSpec, target: JitEdge) -> Edge:
    """Make an edge that computes the target for all items together, or for `batch_size` of them at a time.

    Raises:
        EdgeError: for options that have no effect, since no item is called by itself.
    """
    for argument, value in _changed(spec.batch, spec.concurrency, spec.tries, spec.ends, spec.warm):
        if argument not in _WITH_EFFECT:
            raise EdgeError(
                f"{edge}: {argument}={shown(value)} has no effect, since all items of a jit_edge are one "
                f"computation. Leave it out, or call the items one by one: vmap({target.name}.invoke, ...)."
            )
    if spec.sink is not None:
        raise EdgeError(
            f"{edge}: sink={shown(spec.sink)}, but all items of a jit_edge are one computation, whose "
            "results are in memory. Leave it out, or call the items one by one: "
            f"vmap({target.name}.invoke, ...)."
        )
    if not isinstance(spec.out_key, str) or spec.progress == "items":
        argument, value = (
            ("progress", spec.progress) if isinstance(spec.out_key, str) else ("out_key", spec.out_key)
        )
        raise EdgeError(
            f"{edge}: {argument}={shown(value)}, but all items of a jit_edge are one computation, which "
            "gives one value for each. Pass one out_key, and progress=True or False."
        )
    lowered = _JitVmap(spec, target, spec.out_key)
    return Edge(
        *sides(lowered.run),
        name=spec.name,
        graph=drawn_steps(spec.name, target.spec, (spec.batch.label, spec.out_key), many=True),
        reads=spec.reads,
        writes=spec.writes,
        children={target.name: target},
    )


def _changed(*groups: Any) -> Iterator[tuple[str, Any]]:
    """Yield the options of these groups that differ from the defaults, with their values."""
    for group in groups:
        for field in fields(group):
            if (value := getattr(group, field.name)) != field.default:
                yield field.name, value


class _JitVmap:
    def __init__(self, spec: VmapSpec, target: JitEdge, out_key: str) -> None:
        self._spec = spec
        self._out_key = out_key
        self._target = target

    async def run(self, way: Way, state: Any, config: RunnableConfig) -> State:
        return await way.call_blocking(lambda: self._in_session(as_dict(state), config))

    def _in_session(self, values: State, config: RunnableConfig) -> State:
        with show_progress() if self._spec.progress else nullcontext():
            if not is_looked_at():
                return self._run(values, self._spec.items(values))
            with session("vmap", self._spec.name, THREAD, values, config, calls_models=False) as around:
                before, items = self._target.stats, self._spec.items(values)
                update = self._run(values, items, around.span)
                if around.span is not None:
                    around.span.note(self._target.stats.facts(before))
                    around.span.show(update)
                return update

    def _run(self, values: State, items: list[Any], span: _spans.Span | None = None) -> State:
        spec = self._spec
        if spec.failures_allowed(len(items)) < 0:
            raise spec.too_few(0, len(items))
        runtime = ambient_runtime()
        progress = Progress(spec.name, len(items), runtime.stream_writer if runtime else None)
        places, overlays, failed = _each(spec.overlay, items)
        if overlays:
            self._check_reads(overlays[0])
        found = self._computed(values, overlays)
        failed |= {places[place]: error for place, error in found.failed.items()}
        entries = self._entries(places, found.outcomes, failed, len(items))
        progress.end(errors=len(failed))
        if span is not None:
            counts = {
                "fan_out": len(items),
                "begun": len(overlays),
                "finished": len(items),
                "errors": len(failed),
            }
            span.note(
                {**counts, "fan_in": len(items) - (len(failed) if spec.failures.on_error != "collect" else 0)}
            )
        return self._update(items, entries, failed)

    def _computed(self, values: State, overlays: list[Overlay]) -> BatchResult:
        if not overlays:
            return BatchResult([], {})
        return self._target.program.batch(
            self._spec.inherited(values), overlays, self._spec.concurrency.batch_size, self._output
        )

    @property
    def _output(self) -> str | None:
        """The only output that is kept, if the others are not; only that one is then split by item."""
        result = self._spec.result
        return result if isinstance(result, str) and result in self._target.writes else None

    def _entries(
        self, places: Sequence[int], outcomes: list[Any], failed: dict[int, Exception], total: int
    ) -> list[Any]:
        """Return the entry of each item; errors of the user's `result` function are added to `failed`."""
        if failed:
            outcomes = [
                outcome for place, outcome in zip(places, outcomes, strict=True) if place not in failed
            ]
            places = [place for place in places if place not in failed]
        if self._spec.result is not None and self._output is None:
            kept, outcomes, refused = _each(self._spec.entry, outcomes)
            failed |= {places[place]: error for place, error in refused.items()}
            places = [places[place] for place in kept] if refused else places
        if len(places) == total:
            return outcomes
        entries: list[Any] = [None] * total
        for place, outcome in zip(places, outcomes, strict=True):
            entries[place] = outcome
        return entries

    def _check_reads(self, overlay: Overlay) -> None:
        target = self._target.spec
        if not target.seeds and not any(key in overlay for key in target.reads):
            raise EdgeError(
                f"{self._spec.name}: {target.name} reads {', '.join(map(repr, target.reads))}, and the items "
                f"have {', '.join(map(repr, overlay)) or 'no keys'}, so all results would be the same. Pass "
                "item_to_state= with a key that it reads."
            )

    def _update(self, items: list[Any], entries: list[Any], failed: dict[int, Exception]) -> State:
        spec, errors = self._spec, dict[int, ItemError]()
        for index, error in sorted(failed.items()):
            add_note(error, f"{spec.name}, item {index} of {len(items)}")
            if spec.failures.on_error == "raise":
                raise error
            entries[index] = errors[index] = item_error(
                error, edge=spec.name, index=index, item=items[index], attempts=1
            )
        if len(failed) > spec.failures_allowed(len(items)):
            raise spec.too_few(len(failed), len(items)) from failed[min(failed)]
        if errors and spec.failures.on_error == "drop":
            entries = [entry for index, entry in enumerate(entries) if index not in errors]
        update: State = {self._out_key: entries}
        if spec.failures.errors_key is not None:
            update[spec.failures.errors_key] = list(errors.values())
        return update


def _each(
    function: Callable[[Any], Any], values: Sequence[Any]
) -> tuple[Sequence[int], list[Any], dict[int, Exception]]:
    """Apply a function to each value.

    Returns:
        The places of the values for which it succeeded, its results for these, and the errors of the others
        by place.
    """
    done, failed = list[Any](), dict[int, Exception]()
    left = iter(values)
    while len(done) + len(failed) < len(values):
        try:
            # Not `map`, which would take a StopIteration of the function for its own end.
            done.extend(function(value) for value in left)
        except Exception as error:  # noqa: BLE001  the policy decides, and the next value is called for
            failed[len(done) + len(failed)] = error
    places = range(len(values))
    return [place for place in places if place not in failed] if failed else places, done, failed
