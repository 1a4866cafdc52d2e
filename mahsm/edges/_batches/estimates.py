"""Estimates of what requests take, made before they are submitted."""

from collections.abc import Iterable
from typing import Any

from mahsm._model_calls import BATCH_SHARE, rates_of
from mahsm.edges._batches.requests import Ask, Endpoint
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
        self._reserved: dict[int, tuple[float, float]] = {}
        self._of: dict[Ask, tuple[float, float]] = {}
        self._outputs: dict[Endpoint, tuple[int, int]] = {}

    def learn(self, endpoint: Endpoint, output_tokens: int) -> None:
        """Note the output tokens of an answer."""
        total, count = self._outputs.get(endpoint, (0, 0))
        self._outputs[endpoint] = total + output_tokens, count + 1

    def refusal(self, ask: Ask) -> BudgetExceeded | None:
        """Return why a budget does not allow a request; otherwise reserve what it is going to take."""
        spendings = [meter for meter in ask.meters if isinstance(meter, Spending)]
        if not spendings:
            return None
        tokens, usd = self._estimate(ask)
        for spending in spendings:
            if spending.exceeded is not None:
                return BudgetExceeded(*spending.exceeded.args)
            spent = spending.spent()
            reserved_tokens, reserved_usd = self._reserved.get(id(spending), (0.0, 0.0))
            for bound, used, more, unit in (
                (spending.budget.tokens, spent.tokens + reserved_tokens, tokens, "tokens"),
                (spending.budget.usd, spent.usd + reserved_usd, usd, "USD"),
            ):
                if bound is not None and used + more > bound:
                    return BudgetExceeded(
                        f"a request to {ask.endpoint.label} is not submitted: {used:g} of {bound:g} {unit} "
                        f"are spent or on their way, and it takes about {more:g}. Raise the budget to go on."
                    )
        self._of[ask] = tokens, usd
        for spending in spendings:
            self._reserve(spending, tokens, usd)
        return None

    def release(self, asks: Iterable[Ask]) -> None:
        """Release what was reserved for requests that have an outcome."""
        for ask in asks:
            # Nothing was reserved for requests of an earlier process.
            tokens, usd = self._of.pop(ask, (0.0, 0.0))
            for spending in [meter for meter in ask.meters if isinstance(meter, Spending)]:
                self._reserve(spending, -tokens, -usd)

    def _reserve(self, spending: Spending, tokens: float, usd: float) -> None:
        before = self._reserved.get(id(spending), (0.0, 0.0))
        self._reserved[id(spending)] = max(0.0, before[0] + tokens), max(0.0, before[1] + usd)

    def _estimate(self, ask: Ask) -> tuple[float, float]:
        inputs = input_tokens(ask.request)
        total, count = self._outputs.get(ask.endpoint, (0, 0))
        outputs = total / count if count else 0.0
        prices = rates_of(ask.endpoint.provider, ask.endpoint.model)
        usd = sum(tokens * (price or 0.0) for tokens, price in zip((inputs, outputs), prices, strict=True))
        return inputs + outputs, BATCH_SHARE * usd / 1e6
