"""The tracer: creates spans of edge runs, their parts and model calls, each below its parent."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import (
    get_callback_manager_for_config,
    patch_config,
    var_child_runnable_config,
)
from langgraph.errors import GraphBubbleUp
from langgraph.runtime import get_runtime
from opentelemetry import context, trace

from mahsm._common import Answer, masked
from mahsm._model_calls import Usage, added_up, calls
from mahsm.tracing._backends import Backend, Recorded, Start, Unseen, broke_off, running
from mahsm.tracing._choices import Choices
from mahsm.tracing._cut import cut
from mahsm.tracing._edge_span import EdgeRecord
from mahsm.tracing._elsewhere import elsewhere
from mahsm.tracing._langfuse import LangfuseBackend, adopted, client_of, handler_in, observation_of, span_of
from mahsm.tracing._options import shown_options

MOST = 9_000
"""The most observations of a trace: Langfuse's dashboard shows up to 10,000. Only edge runs are recorded
beyond this."""

_TRACES = 1000
"""The number of latest traces whose observations are counted."""

_TYPES = {"judge": "evaluator"}


class BackendTracer:
    """Creates spans in a backend.

    Args:
        backend: The backend.
        scores: Also send error rates, costs and judges' scores as scores.
    """

    def __init__(self, backend: Backend, *, scores: bool = False) -> None:
        self.backend = backend
        self.scores = scores
        self.choices = Choices()
        self._counts: OrderedDict[int, int] = OrderedDict()
        self._runs: OrderedDict[int, tuple[Any, trace.SpanContext]] = OrderedDict()
        """The first span of each graph run that has no span itself, by the id of the run. The run is kept in
        the value, so that no later run can have the same id."""
        self._lock, self._begins_run = threading.Lock(), threading.Lock()

    def begin(self, start: Start, *, always: bool = False) -> Recorded:
        """Begin a span below the current one; unless `always`, only if its trace has room."""
        around: Any = trace.get_current_span()
        if not always and not self._room(around):
            return Unseen(around)
        run = None if around.get_span_context().is_valid else _graph_run()
        if run is None:
            recorded = self._backend_here().begin(start)
        else:
            # Edges of a run may begin at the same time; one of them is the first, the others its siblings.
            with self._begins_run:
                recorded = self._of_run(run, start)
        self._count(recorded)
        return recorded

    def _of_run(self, run: Any, start: Start) -> Recorded:
        """Begin the first span of a graph run, or a sibling of the first one."""
        if id(run) in self._runs:
            return self._backend_here().begin(replace(start, beside=self._runs[id(run)][1]))
        recorded = self._backend_here().begin(start)
        self._runs[id(run)] = run, recorded.otel.get_span_context()
        while len(self._runs) > _TRACES:
            self._runs.popitem(last=False)
        return recorded

    def _backend_here(self) -> Backend:
        """Return the backend for spans that begin here: that of the run's Langfuse handler, if it has one."""
        handler = handler_in((var_child_runnable_config.get() or {}).get("callbacks"))
        return self.backend if handler is None else LangfuseBackend(client_of(handler))

    def _count(self, recorded: Recorded) -> None:
        trace_id = recorded.otel.get_span_context().trace_id
        # Spans of a disabled client have no trace id.
        if not trace_id:
            return
        with self._lock:
            self._counts[trace_id] = self._counts.get(trace_id, 0) + 1
            while len(self._counts) > _TRACES:
                self._counts.popitem(last=False)

    def _room(self, span: Any) -> bool:
        return self._counts.get(span.get_span_context().trace_id, 0) < MOST

    def has_room(self, recorded: Recorded) -> bool:
        """Return whether its trace has room for further parts."""
        return self._room(recorded.otel)

    def chose(self, id: str, recorded: Recorded) -> None:
        """Remember where the choice of a router is, for its reward."""
        if (place := recorded.place()) is not None:
            self.choices.add(id, place)

    def moment(
        self, label: str, edge: Recorded, facts: Mapping[str, Any], error: BaseException | None
    ) -> None:
        """Record a part that has ended as a span without duration."""
        if not self.has_room(edge):
            return
        token = context.attach(trace.set_span_in_context(edge.otel))
        try:
            recorded = self.begin(Start(label, "span"))
        finally:
            context.detach(token)
        recorded.note(facts)
        if error is not None:
            recorded.fail(error)
        recorded.end()

    def _score(self, recorded: Recorded, edge: EdgeRecord, used: Mapping[str, Any]) -> None:
        if not self.scores:
            return
        if finished := edge.facts.get("finished"):
            recorded.score("mahsm.error_rate", edge.facts["errors"] / finished)
        if "cost_usd" in used:
            recorded.score("mahsm.cost_usd", used["cost_usd"])
        judged: Any = (
            cast("dict[str, Any]", edge.output).get("score") if isinstance(edge.output, dict) else None
        )
        if isinstance(judged, int | float):
            recorded.score("mahsm.judge", float(judged))

    @contextmanager
    def edge(
        self, kind: str, name: str, config: RunnableConfig, state: Any
    ) -> Generator[EdgeRecord, None, None]:
        label = f"{kind}:{name.removeprefix(f'{kind}_')}"
        opened = self._opened(label, _TYPES.get(kind, "chain"), config, state, always=True)
        with opened as (recorded, child), added_up() as usage:
            edge = EdgeRecord(self, recorded, child)
            try:
                yield edge
            finally:
                edge.close()
                used = _used(usage)
                edge.note({**edge.timings.facts(), **used})
                self._score(recorded, edge, used)

    @contextmanager
    def _opened(
        self, name: str, kind: str, config: RunnableConfig, input: Any, *, always: bool = False
    ) -> Generator[tuple[Recorded, RunnableConfig], None, None]:
        """Return a block that is a span, and also a LangChain run if there are callback handlers."""
        manager: Any = get_callback_manager_for_config(config)
        run = manager.on_chain_start(None, cut(input), name=name) if manager.handlers else None
        recorded = adopted(manager, run.run_id, kind) if run is not None else None
        with ExitStack() as around:
            if recorded is not None:
                self._count(recorded)
            else:
                if given := _attributes(config):
                    around.enter_context(self.backend.attributes(given))
                recorded = self.begin(Start(name, kind, input), always=always)
            yield from self._inside(recorded, run, config)

    def _inside(
        self, recorded: Recorded, run: Any, config: RunnableConfig
    ) -> Generator[tuple[Recorded, RunnableConfig], None, None]:
        child = config if run is None else patch_config(config, callbacks=run.get_child())
        tokens = (
            context.attach(trace.set_span_in_context(recorded.otel)),
            var_child_runnable_config.set(child),
        )
        failure: BaseException | None = None
        try:
            yield recorded, child
        except GraphBubbleUp:
            # An interrupt is not an error.
            recorded.note({"interrupted": True})
            raise
        except BaseException as error:
            failure = error
            broke_off(recorded, error)
            raise
        finally:
            var_child_runnable_config.reset(tokens[1])
            # The handler detaches its own span in `on_chain_end` or `on_chain_error`. Contexts have to be
            # detached in reverse order, so this one comes first.
            context.detach(tokens[0])
            if run is not None and failure is not None:
                run.on_chain_error(masked(failure))
            elif run is not None:
                run.on_chain_end(recorded.output)
            recorded.end()

    @contextmanager
    def part(self, label: str, index: int, config: RunnableConfig) -> Generator[Recorded, None, None]:
        """Return a block that is an item or a branch."""
        with self._opened(label, "span", config, None) as (recorded, _):
            recorded.note({"index": index})
            yield recorded

    @contextmanager
    def node(self, config: RunnableConfig) -> Generator[None, None, None]:
        manager: Any = config.get("callbacks")
        run_id = getattr(manager, "parent_run_id", None)
        observation = None if run_id is None else observation_of(manager, run_id)
        if observation is None or _is_inside(observation):
            yield
            return
        token = context.attach(trace.set_span_in_context(span_of(observation)))
        try:
            yield
        finally:
            context.detach(token)

    @contextmanager
    def call(
        self, model: str, prompt: Any, options: Mapping[str, Any]
    ) -> Generator["CallRecord", None, None]:
        from mahsm.tracing._dspy_spans import is_instrumented

        # OpenInference records the call.
        if is_instrumented():
            yield CallRecord(Unseen(trace.get_current_span()))
            return
        name = model.rpartition("/")[2] or "model"
        start = Start(name, "generation", prompt, model, shown_options(options), calls.here().prompt)
        recorded = self.begin(start)
        with running(recorded):
            yield CallRecord(recorded)

    def job(self, name: str, given: Mapping[str, Any]) -> Recorded:
        return self.begin(Start(name, "span", given))

    def elsewhere(self) -> Callable[[], AbstractContextManager[None]]:
        return elsewhere()

    def dspy_callbacks(self, present: Iterable[Any]) -> list[Any]:
        from mahsm.tracing._dspy_spans import ModuleSpans, is_instrumented

        if is_instrumented() or any(isinstance(callback, ModuleSpans) for callback in present):
            return []
        return [ModuleSpans(self.begin)]


class CallRecord:
    """The span of a model call."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded

    def note(self, facts: Mapping[str, Any]) -> None:
        self._recorded.note(facts)

    def begun(self) -> None:
        self._recorded.begun()

    def end(self, output: Any, answer: Answer | None) -> None:
        self._recorded.show(output)
        if answer is not None:
            self._recorded.used(answer)


def _graph_run() -> Any:
    """Return an object that LangGraph shares among all nodes of a graph run, or None outside of one."""
    try:
        return get_runtime().control
    except RuntimeError:
        return None


def _attributes(config: RunnableConfig) -> dict[str, Any]:
    """Return the trace's attributes in the config's metadata, which have the names for Langfuse's handler."""
    metadata: Any = config.get("metadata") or {}
    found = {
        name: metadata.get(f"langfuse_{name}") for name in ("session_id", "user_id", "tags", "trace_name")
    }
    return {name: value for name, value in found.items() if value is not None}


def _is_inside(observation: Any) -> bool:
    """Return whether the current span is the observation's or below it: same trace, and not begun earlier."""
    current, own = cast("Any", trace.get_current_span()), span_of(observation)
    same = current.get_span_context().trace_id == own.get_span_context().trace_id
    return same and getattr(current, "start_time", 0) >= getattr(own, "start_time", 0)


def _used(usage: Usage) -> dict[str, Any]:
    """Return the usage of model calls for a span; without `cost_usd` if the cost is unknown."""
    if not (usage.calls or usage.cached):
        return {}
    found: dict[str, Any] = {
        "calls": usage.calls,
        "failed_calls": usage.failed,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_hits": usage.cached,
        "unpriced": usage.unpriced,
    }
    for name in ("cache_read_tokens", "cache_creation_tokens"):
        if tokens := getattr(usage, name):
            found[name] = tokens
    is_known = usage.usd or ((usage.tokens or usage.cached) and not usage.unpriced)
    return {**found, "cost_usd": round(usage.usd, 9)} if is_known else found
