"""The contexts around one run of any edge: its span, its usage, its budget, the slots of the graph run."""

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig

from mahsm import _spans
from mahsm._common import State
from mahsm._model_calls import edge_run, is_recorded, observed, restored_context
from mahsm._spans import EdgeSpan
from mahsm._waiting import Slots, Way
from mahsm.edges._shared.graph_limit import graph_limit
from mahsm.policies import Budget
from mahsm.policies._internal import spending_of


@dataclass(frozen=True, slots=True)
class Session:
    """The surroundings of one run of an edge.

    Attributes:
        way: How the run waits.
        state: The parent's state.
        config: The config for calls inside.
        shared: The slots of the graph run, if it has a `max_concurrency`.
        span: The span of the run, if it is traced.
    """

    way: Way
    state: State
    config: RunnableConfig
    shared: Sequence[Slots]
    span: EdgeSpan | None


def is_looked_at() -> bool:
    """Return whether traces or `mahsm.usage()` show the edge runs that begin here."""
    return _spans.tracer() is not None or is_recorded()


@contextmanager
def session(
    kind: str,
    name: str,
    way: Way,
    state: State,
    config: RunnableConfig,
    *,
    shown: Any = None,
    budget: Budget | None = None,
    calls_models: bool = True,
    retries: bool = False,
) -> Generator[Session, None, None]:
    """Return a block that is one run of an edge.

    Every edge begins its runs by this function, so that all of them are traced, counted and bounded alike.

    Args:
        kind: The kind of the edge in traces, such as `"vmap"`.
        name: The edge's name.
        way: How it waits.
        state: The parent's state.
        config: The config of the edge's node.
        shown: The input in traces; by default the state.
        budget: The most that the run may spend.
        calls_models: Observe calls of models even if the run is not traced.
        retries: The run retries its calls, so clients must not do it too.
    """
    # The order matters: each context has to find those that it depends on, and must not include those that
    # are not part of it.
    #
    # - `restored_context` is first. In a thread that DSPy started, the context variables of the caller are
    #   missing, and everything below reads some of them.
    # - `graph_limit` comes before the span, since it finds the graph run by the config as LangGraph gave it,
    #   and the span replaces the config.
    # - The budget is outside of the span: the span shows, when it ends, how much of the budget the run spent.
    # - The record of usage is inside of the span, which adds it up when it ends.
    # - Model calls are observed last, when everything that counts them is there.
    with (
        restored_context(),
        graph_limit(config) as shared,
        _NOTHING if budget is None else spending_of(budget, name).running(),
        _span(kind, name, config, state if shown is None else shown) as span,
        edge_run(name),
        observed(retries=not retries) if calls_models or span is not None else _NOTHING,
    ):
        yield Session(way, state, span.config if span else config, shared, span)


_NOTHING: AbstractContextManager[None] = nullcontext()


def _span(
    kind: str, name: str, config: RunnableConfig, given: Any
) -> AbstractContextManager[EdgeSpan | None]:
    tracer = _spans.tracer()
    return _NOTHING if tracer is None else tracer.edge(kind, name, config, given)
