"""Books of what models took, by model, by node and by edge run: written where calls end, read by whoever
asks.
"""

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

from langchain_core.runnables.config import var_child_runnable_config

from mahsm._common import Answer

Prices = Mapping[str, tuple[float, float]]
"""From a model's name to US dollars per million tokens, in and out."""


class Usage:
    """What calls of models took. Safe in threads.

    Attributes:
        calls: Calls of models from when they begin, failed and cancelled ones included, cached ones not. What
            a client tries again by itself is one call.
        failed: Those of them that ended with an error.
        cached: Answers that came from a cache. They took nothing.
        input_tokens: Tokens of prompts.
        output_tokens: Tokens of answers.
        usd: US dollars, as far as prices are known.
        unpriced: Answers whose price nobody knows.

    Example:
        >>> import dspy, mahsm
        >>> from mahsm.testing import FakeLM, Reply
        >>> def price(used: mahsm.Usage) -> str:
        ...     return f"{used.usd:.2f} USD for {used.tokens} tokens"
        >>> with mahsm.usage() as used, dspy.context(lm=FakeLM(Reply("4", usage=(1000, 10)), price=(10, 50))):
        ...     _ = dspy.settings.lm("2 + 2")
        >>> price(used)
        '0.01 USD for 1010 tokens'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls: int = 0
        self.failed: int = 0
        self.cached: int = 0
        self.input_tokens: int = 0
        self.output_tokens: int = 0
        self.usd: float = 0.0
        self.unpriced: int = 0

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input_tokens + self.output_tokens

    def begin_call(self) -> None:
        """A call begins."""
        with self._lock:
            self.calls += 1

    def end_call(self, answer: Answer | None) -> None:
        """It has ended: with an answer, or with an error."""
        with self._lock:
            if answer is not None and answer.cached:
                self.calls -= 1
                self.cached += 1
                return
            if answer is None:
                self.failed += 1
                return
            self.input_tokens += answer.input_tokens
            self.output_tokens += answer.output_tokens
            self.usd += answer.usd or 0.0
            self.unpriced += answer.usd is None

    def __repr__(self) -> str:
        return (
            f"Usage(calls={self.calls}, failed={self.failed}, cached={self.cached}, "
            f"input_tokens={self.input_tokens}, output_tokens={self.output_tokens}, usd={self.usd:g}, "
            f"unpriced={self.unpriced})"
        )


@dataclass(frozen=True)
class EdgeUsage:
    """What one run of an edge took, edges inside included.

    Attributes:
        edge: The edge's name.
        usage: What it took.

    Example:
        >>> import mahsm
        >>> edge = mahsm.vmap(lambda state: state["item"], batch_key="xs", out_key="ys", name="copies")
        >>> with mahsm.usage() as used:
        ...     _ = edge.invoke({"xs": [1, 2]})
        >>> [(run.edge, run.usage.calls) for run in used.runs]
        [('copies', 0)]
    """

    edge: str
    usage: Usage


class Ledger(Usage):
    """What calls took in all, and in parts.

    Attributes:
        by_model: By the model that answered; a call that failed is only in the sum.
        by_node: By the path of the LangGraph node, such as `"summaries/Summarize"`; calls outside of nodes
            and edges are only in the sum.
        runs: Each edge run, in the order in which they began.

    Example:
        >>> import mahsm
        >>> def dearest(ledger: mahsm.Ledger) -> str:
        ...     return max(ledger.by_model, key=lambda model: ledger.by_model[model].usd, default="no model")
        >>> with mahsm.usage() as used:
        ...     pass
        >>> dearest(used)
        'no model'
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_model: dict[str, Usage] = {}
        self.by_node: dict[str, Usage] = {}
        self.runs: list[EdgeUsage] = []

    def begin_call_of(self, node: str) -> None:
        """A call of this node begins."""
        for part in self._at(node):
            part.begin_call()

    def end_call_of(self, node: str, answer: Answer | None) -> None:
        """It has ended."""
        if answer is not None:
            with self._lock:
                of_model = self.by_model.setdefault(answer.model, Usage())
            of_model.begin_call()  # which model answers is known only now
            of_model.end_call(answer)
        for part in self._at(node):
            part.end_call(answer)

    def _at(self, node: str) -> list[Usage]:
        if not node:
            return [self]
        with self._lock:
            return [self, self.by_node.setdefault(node, Usage())]

    def begin(self, run: EdgeUsage) -> None:
        """An edge run has begun."""
        with self._lock:
            self.runs.append(run)


@dataclass(frozen=True)
class _RecordsHere:
    """Who keeps books here.

    Attributes:
        ledgers: Books of blocks.
        edges: Books of the edge runs around, from the outside in.
        blocks: Books of blocks that have no parts.
        prices: Prices that count before those that a client knows.
        alone: Name of the outermost edge run, if it runs outside of any graph.
    """

    ledgers: tuple[Ledger, ...] = ()
    edges: tuple[EdgeUsage, ...] = ()
    blocks: tuple[Usage, ...] = ()
    prices: Prices = field(default_factory=dict[str, tuple[float, float]])
    alone: str = ""

    @property
    def usages(self) -> tuple[Usage, ...]:
        """All that has no parts."""
        return (*(run.usage for run in self.edges), *self.blocks)


# It is frozen.
_records_here: ContextVar[_RecordsHere] = ContextVar("mahsm_books", default=_RecordsHere())  # noqa: B039


def is_recorded() -> bool:
    """Return whether `mahsm.usage()` records what is called here."""
    return bool(_records_here.get().ledgers)


def record_begin() -> None:
    """A call begins here."""
    here = _records_here.get()
    for usage in here.usages:
        usage.begin_call()
    for ledger, node in _places(here):
        ledger.begin_call_of(node)


def record_end(answer: Answer | None) -> None:
    """It has ended: with an answer, or with an error."""
    here = _records_here.get()
    if answer is not None and answer.model in here.prices:
        answer = answer.priced(here.prices[answer.model])
    for usage in here.usages:
        usage.end_call(answer)
    for ledger, node in _places(here):
        ledger.end_call_of(node, answer)


def _places(here: _RecordsHere) -> list[tuple[Ledger, str]]:
    """The ledgers, and the node that they know a call by."""
    if not here.ledgers:
        return []
    node = "/".join(step for step in (here.alone, *_nodes()) if step)
    return [(ledger, node) for ledger in here.ledgers]


def usage_of_edge_run() -> Usage:
    """The book of the innermost edge run here; of no use to anybody if there is none."""
    edges = _records_here.get().edges
    return edges[-1].usage if edges else Usage()


def _nodes() -> list[str]:
    """The names of the LangGraph nodes that run here, from the outside in."""
    namespace: str = (var_child_runnable_config.get() or {}).get("configurable", {}).get("checkpoint_ns", "")
    return [step.partition(":")[0] for step in namespace.split("|") if step and not step.isdigit()]


@contextmanager
def recorded(ledger: Ledger, prices: Prices) -> Generator[None, None, None]:
    """Write in the ledger what is called in the block."""
    here = _records_here.get()
    token = _records_here.set(
        replace(here, ledgers=(*here.ledgers, ledger), prices={**here.prices, **prices})
    )
    try:
        yield
    finally:
        _records_here.reset(token)


@contextmanager
def added_up() -> Generator[Usage, None, None]:
    """Add up what is called in the block."""
    here, usage = _records_here.get(), Usage()
    token = _records_here.set(replace(here, blocks=(*here.blocks, usage)))
    try:
        yield usage
    finally:
        _records_here.reset(token)


@contextmanager
def edge_run(name: str) -> Generator[None, None, None]:
    """The block is an edge run, which has a book of its own."""
    here, run = _records_here.get(), EdgeUsage(name, Usage())
    for ledger in here.ledgers:
        ledger.begin(run)
    alone = here.alone or ("" if here.edges or _nodes() else name)
    token = _records_here.set(replace(here, edges=(*here.edges, run), alone=alone))
    try:
        yield
    finally:
        _records_here.reset(token)
