"""Estimates of what requests take, made before they are submitted."""

from collections.abc import Iterable
from typing import Any

from mahsm._batches.requests import Ask, Endpoint
from mahsm._model_calls import BATCH_SHARE, rates_of
from mahsm.errors import BudgetExceeded
from mahsm.policies import Spending

_CHARACTERS = 4
"""Characters of a token, as OpenAI's documentation says of English text."""


def input_tokens(request: Any) -> int:
    """Return the estimated tokens of a request's prompt."""
    texts = [message.text or "" for message in request.messages]
    texts.append(request.system if isinstance(request.system, str) else str(request.system or ""))
    return max(1, sum(map(len, texts)) // _CHARACTERS)


class Estimates:
    """Estimated spending of the requests that are on their way. For the loop of batches."""

    def __init__(self) -> None:
        self._reserved: dict[Ask, list[tuple[Spending, float, float]]] = {}
        self._sums: dict[Spending, tuple[float, float]] = {}
        self._outputs: dict[Endpoint, tuple[int, int]] = {}

    def learn(self, endpoint: Endpoint, output_tokens: int) -> None:
        """Note the output tokens of an answer."""
        total, count = self._outputs.get(endpoint, (0, 0))
        self._outputs[endpoint] = total + output_tokens, count + 1

    def refusal(self, ask: Ask) -> BudgetExceeded | None:
        """Return why a budget does not allow a request; otherwise reserve what it is going to take."""
        taken: list[tuple[Spending, float, float]] = []
        for spending in ask.meters:
            if not isinstance(spending, Spending):
                continue
            if spending.exceeded is not None:
                return BudgetExceeded(*spending.exceeded.args)
            tokens, usd = self._estimate(ask, spending)
            if (why := self._too_much(spending, tokens, usd)) is not None:
                return BudgetExceeded(
                    f"a request to {ask.endpoint.label} is not submitted: {why}. Raise the budget to go on."
                )
            taken.append((spending, tokens, usd))
        self._add(taken, 1)
        self._reserved[ask] = taken
        return None

    def release(self, asks: Iterable[Ask]) -> None:
        """Release what was reserved for requests that have an outcome."""
        for ask in asks:
            self._add(self._reserved.pop(ask, []), -1)

    def _add(self, taken: Iterable[tuple[Spending, float, float]], sign: int) -> None:
        for spending, tokens, usd in taken:
            before = self._sums.get(spending, (0.0, 0.0))
            self._sums[spending] = before[0] + sign * tokens, before[1] + sign * usd

    def _too_much(self, spending: Spending, tokens: float, usd: float) -> str | None:
        spent, budget = spending.spent(), spending.budget
        open_tokens, open_usd = self._sums.get(spending, (0.0, 0.0))
        for bound, used, more, unit in (
            (budget.tokens, spent.tokens + open_tokens, tokens, "tokens"),
            (budget.usd, spent.usd + open_usd, usd, "USD"),
        ):
            if bound is not None and used + more > bound:
                return f"{used:g} of {bound:g} {unit} are spent or on their way, and it takes about {more:g}"
        return None

    def _estimate(self, ask: Ask, spending: Spending) -> tuple[float, float]:
        """Return the tokens and US dollars of a request, whose answer is as long as those before."""
        inputs = input_tokens(ask.request)
        total, count = self._outputs.get(ask.endpoint, (0, 0))
        outputs = total / count if count else 0.0
        own = (spending.budget.prices or {}).get(ask.endpoint.model)
        prices = own or rates_of(ask.endpoint.provider, ask.endpoint.model)
        pairs = zip((inputs, outputs), prices[:2], strict=True)
        return inputs + outputs, BATCH_SHARE * sum(tokens * (price or 0.0) for tokens, price in pairs) / 1e6
