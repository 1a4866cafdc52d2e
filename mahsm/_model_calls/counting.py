"""Counts model calls at the call site, in every counter that is active there.

A call is counted when it begins: in the records of `usage()`, of edge runs and of traces, in budgets, and in
the attempt of the item that makes it. Its tokens and price are added when it ends. `calls.begin_call` and
`calls.end_call` are the only callers, so all counters agree.

Budgets count attempts, too, since a target may call a model that is not observed. An attempt counts as a call
when it begins. The first call inside it is that call, and the meters around the attempt do not count it
again. So a call is counted by the meters from the inside out, up to an attempt that already counted for it.
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, NamedTuple

from mahsm._common import Answer
from mahsm._model_calls.records import AttemptCounter, EdgeUsage, Ledger, Meter, Prices, Usage


class _Counters(NamedTuple):
    """The active counters, each tuple from the outside in.

    Attributes:
        meters: Counters of budgets and attempts.
        usages: Counters of edge runs and of `added_up` blocks.
        ledgers: Counters of `usage()` blocks.
        prices: Prices that take precedence over those of clients. Budgets have their own prices.
        edge: The counter of the innermost edge run.
        alone: Name of the outermost edge run, if it runs outside any graph.
    """

    meters: tuple[Meter, ...] = ()
    usages: tuple[Usage, ...] = ()
    ledgers: tuple[Ledger, ...] = ()
    prices: Prices = MappingProxyType({})
    edge: Usage | None = None
    alone: str = ""


_counters: ContextVar[_Counters] = ContextVar("mahsm_counters", default=_Counters())  # noqa: B039
"""Set by the blocks below; read when a call or an attempt begins or ends."""


# Calls and attempts.


def count_call() -> None:
    """Count a call that begins here, even if a budget is spent."""
    here = _counters.get()
    for meter in _uncounted(here.meters):
        meter.begin_call()
    for usage in here.usages:
        usage.begin_call()
    if here.ledgers:
        node = _node(here)
        for ledger in here.ledgers:
            ledger.begin_call(node)


def count_end(answer: Answer | None) -> None:
    """Count the end of a call that began here: an answer, or None for an error."""
    here = _counters.get()
    for meter in here.meters:
        meter.end_call(answer)
    if answer is not None and answer.model in here.prices:
        answer = answer.priced(here.prices[answer.model])
    for usage in here.usages:
        usage.end_call(answer)
    if here.ledgers:
        node = _node(here)
        for ledger in here.ledgers:
            ledger.end_call(answer, node)


def count_attempt() -> Meter | None:
    """Count an attempt of an item that begins here.

    If a meter is at its `most_calls`, nothing is counted, and that meter is returned.
    """
    counted: list[Meter] = []
    for meter in _uncounted(_counters.get().meters):
        if not meter.begin_attempt():
            for one in counted:
                one.cancel_attempt()
            return meter
        counted.append(meter)
    return None


def _uncounted(meters: tuple[Meter, ...]) -> Generator[Meter, None, None]:
    """Yield the meters that have to count a call that begins here, from the inside out."""
    for meter in reversed(meters):
        yield meter
        if isinstance(meter, AttemptCounter) and meter.already_counted():
            return


def _node(here: _Counters) -> str:
    """Return the path of the LangGraph node that runs here."""
    return "/".join(step for step in (here.alone, *_nodes()) if step)


def _nodes() -> list[str]:
    """Return the names of the LangGraph nodes that run here, from the outside in."""
    # A node that runs here has imported LangChain.
    runnables: Any = sys.modules.get("langchain_core.runnables.config")
    config: dict[str, Any] | None = runnables and runnables.var_child_runnable_config.get()
    namespace: str = (config or {}).get("configurable", {}).get("checkpoint_ns", "")
    return [step.partition(":")[0] for step in namespace.split("|") if step and not step.isdigit()]


# The active counters.


def meters() -> tuple[Meter, ...]:
    """Return the active meters, from the outside in."""
    return _counters.get().meters


def in_attempt() -> bool:
    """Return whether an attempt of an item is running here."""
    return any(isinstance(meter, AttemptCounter) for meter in meters())


def is_recorded() -> bool:
    """Return whether `mahsm.usage()` records calls that are made here."""
    return bool(_counters.get().ledgers)


def usage_of_edge_run() -> Usage:
    """Return the usage of the innermost edge run here; an empty one outside edge runs."""
    return _counters.get().edge or Usage()


# Blocks.


@contextmanager
def _counting(here: _Counters) -> Generator[None, None, None]:
    token = _counters.set(here)
    try:
        yield
    finally:
        _counters.reset(token)


class metered:
    """A block whose calls a meter counts.

    Args:
        meter: The meter.
    """

    __slots__ = ("_meter", "_token")

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def __enter__(self) -> None:
        # This runs for each attempt, and `_replace` would take twice as long.
        meters, *others = _counters.get()
        self._token = _counters.set(_Counters._make(((*meters, self._meter), *others)))

    def __exit__(self, *error: object) -> None:
        _counters.reset(self._token)


@contextmanager
def recorded(ledger: Ledger, prices: Prices) -> Generator[None, None, None]:
    """Count the calls in the block in a ledger."""
    here = _counters.get()
    ledgers = (*here.ledgers, ledger)
    with _counting(here._replace(ledgers=ledgers, prices={**here.prices, **prices})):
        yield


@contextmanager
def added_up() -> Generator[Usage, None, None]:
    """Yield a usage that counts the calls in the block."""
    here, usage = _counters.get(), Usage()
    with _counting(here._replace(usages=(*here.usages, usage))):
        yield usage


class edge_run:
    """A block that counts as an edge run, with its own usage.

    Args:
        name: The edge's name.
    """

    __slots__ = ("_name", "_token")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        here, run = _counters.get(), EdgeUsage(self._name, Usage())
        for ledger in here.ledgers:
            ledger.begin_edge(run)
        alone = here.alone or ("" if here.edge is not None or _nodes() else self._name)
        usages = (*here.usages, run.usage)
        self._token = _counters.set(
            _Counters(here.meters, usages, here.ledgers, here.prices, run.usage, alone)
        )

    def __exit__(self, *error: object) -> None:
        _counters.reset(self._token)
