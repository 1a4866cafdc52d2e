"""What is around one run of any edge: its span, its usage, its budget, the slots of the graph run."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig

from mahsm import _spans
from mahsm._common import State
from mahsm._model_calls import edge_run, is_recorded, observed, restored_context
from mahsm._spans import EdgeSpan
from mahsm._waiting import Slots, Way
from mahsm.edges._shared.graph_limit import graph_limit
from mahsm.policies import Budget, Spending


@dataclass(frozen=True, slots=True)
class Session:
    """What is around one run of an edge.

    Attributes:
        way: How the run waits.
        state: The parent's state.
        config: The config of what is inside.
        shared: The slots of the graph run, if it has a `max_concurrency`.
        span: What traces show of it, if they do.
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
    """A block that is one run of an edge.

    The order matters. A thread of DSPy's gets its context back before anything reads it. The slots of the
    graph run are found by the config as LangGraph gave it. The budget is outside of the span, which shows
    what the run took of it. The record of usage is inside of the span, whose own sum has to have it. Calls
    are observed last, when everything that counts them is there.

    Args:
        kind: What traces call it, such as `"vmap"`.
        name: The edge's name.
        way: How it waits.
        state: The parent's state.
        config: The config of the node that the edge is.
        shown: What traces show as its input; by default the state.
        budget: What the run may spend.
        calls_models: Whether calls of models are observed also if nobody traces.
        retries: Whether anything in it is tried again, so that clients must not do it too.
    """
    with ExitStack() as stack:
        stack.enter_context(restored_context())
        shared = stack.enter_context(graph_limit(config))
        if budget is not None:
            stack.enter_context(Spending(budget, name).running())
        span: EdgeSpan | None = None
        if (tracer := _spans.tracer()) is not None:
            given = state if shown is None else shown
            span = stack.enter_context(tracer.edge(kind, name, config, given))
        stack.enter_context(edge_run(name))
        if calls_models or span is not None:
            stack.enter_context(observed(retries=not retries))
        yield Session(way, state, span.config if span else config, shared, span)
