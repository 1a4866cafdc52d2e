"""Records of model calls and their usage: in total, by model, by node and by edge run."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from mahsm._common import Answer, Price

Prices = Mapping[str, Price]
"""From a model's name to US dollars per million input and output tokens, and perhaps cached input tokens."""


class Usage:
    """Counts of model calls, their tokens and their price. Thread-safe.

    Attributes:
        calls: Model calls that have begun, including failed and cancelled ones, without cached ones. A call
            that a client retries by itself is one call.
        failed: Calls that ended with an error.
        answers: Answers, including cached ones.
        cached: Answers from a cache, which take no tokens.
        unknown: Answers whose tokens were not reported.
        input_tokens: Tokens of prompts.
        output_tokens: Tokens of answers.
        cache_read_tokens: Input tokens that providers read from their prompt caches.
        cache_creation_tokens: Input tokens that they wrote to these, where they report it.
        usd: US dollars, for answers with a known price.
        unpriced: Answers whose price is unknown.

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

    calls: int = 0
    failed: int = 0
    answers: int = 0
    cached: int = 0
    unknown: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    usd: float = 0.0
    unpriced: int = 0

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @property
    def tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens

    def begin_call(self) -> None:
        """Count a call that begins."""
        with self._lock:
            self.calls += 1

    def end_call(self, answer: Answer | None) -> None:
        """Count the end of a call: an answer, or None for an error."""
        with self._lock:
            if answer is None:
                self.failed += 1
                return
            self.answers += 1
            if answer.cached:
                self.calls -= 1
                self.cached += 1
                return
            self.unknown += not answer.known
            self.input_tokens += answer.input_tokens
            self.output_tokens += answer.output_tokens
            self.cache_read_tokens += answer.cache_read_tokens
            self.cache_creation_tokens += answer.cache_creation_tokens
            self.usd += answer.usd or 0.0
            self.unpriced += answer.usd is None

    def __repr__(self) -> str:
        # Most providers report neither of them, or only the first.
        cached = "".join(
            f"{name}={count}, "
            for name in ("cache_read_tokens", "cache_creation_tokens")
            if (count := getattr(self, name))
        )
        return (
            f"Usage(calls={self.calls}, failed={self.failed}, cached={self.cached}, "
            f"input_tokens={self.input_tokens}, output_tokens={self.output_tokens}, {cached}"
            f"usd={self.usd:g}, unpriced={self.unpriced})"
        )


@dataclass(frozen=True)
class EdgeUsage:
    """Usage of one run of an edge, including edges inside it.

    Attributes:
        edge: The edge's name.
        usage: Its usage.

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
    """Total usage, and its parts.

    Attributes:
        by_model: Usage by the model that answered; failed calls are only in the total.
        by_node: Usage by the path of the LangGraph node, such as `"summaries/Summarize"`; calls outside nodes
            and edges are only in the total.
        runs: Usage of each edge run, in the order in which they began.

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

    def begin_call(self, node: str = "") -> None:
        """Count a call that begins in this node."""
        super().begin_call()
        if node:
            self._part(self.by_node, node).begin_call()

    def end_call(self, answer: Answer | None, node: str = "") -> None:
        """Count the end of a call of this node."""
        super().end_call(answer)
        if answer is not None:
            # The model that answers is known only now, so the start is counted late.
            of_model = self._part(self.by_model, answer.model)
            of_model.begin_call()
            of_model.end_call(answer)
        if node:
            self._part(self.by_node, node).end_call(answer)

    def begin_edge(self, run: EdgeUsage) -> None:
        """Add an edge run that begins."""
        with self._lock:
            self.runs.append(run)

    def _part(self, parts: dict[str, Usage], name: str) -> Usage:
        with self._lock:
            return parts.setdefault(name, Usage())


class Meter(Usage):
    """Usage in which an attempt of an item counts as a call even if it calls no model.

    Attributes:
        calls: Model calls, and attempts without a model call.
        most_calls: Number of calls after which no attempt may begin; None for no limit.
    """

    calls: int = 0
    most_calls: float | None = None

    def begin_attempt(self) -> bool:
        """Count an attempt unless `most_calls` is reached; return whether it was counted."""
        with self._lock:
            if self.most_calls is not None and self.calls >= self.most_calls:
                return False
            self.calls += 1
            return True

    def cancel_attempt(self) -> None:
        """Undo one `begin_attempt()`, since the attempt does not begin."""
        with self._lock:
            self.calls -= 1


class AttemptCounter(Meter):
    """Usage of one attempt of an item.

    Args:
        counted: True if the attempt was counted as a call, so that its first call is not counted again.
    """

    def __init__(self, *, counted: bool = False) -> None:
        super().__init__()
        self._stands = counted

    def already_counted(self) -> bool:
        """Return whether the meters around the attempt have already counted a call that begins in it.

        That is so for the first call, if the attempt was counted when it began.
        """
        with self._lock:
            first, self._stands = self._stands, False
        return first
