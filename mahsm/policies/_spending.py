"""`Spending`: what has been spent of a budget, and what happens when it is spent."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

from mahsm._common import Answer
from mahsm._model_calls import Meter, metered
from mahsm._waiting import OnStop, StopCallbacks, tasks
from mahsm.errors import BudgetExceeded
from mahsm.policies._budget import Budget


class Spent(NamedTuple):
    """US dollars, tokens and calls."""

    usd: float
    tokens: float
    calls: float


class Spending(Meter):
    """The spending of a budget so far. Callbacks of `on_stop` are called when the budget is spent.

    Attributes:
        budget: The budget.
        exceeded: The reason why nothing new begins, or None.
    """

    def __init__(self, budget: Budget, name: str) -> None:
        super().__init__()
        self.budget = budget
        self.most_calls: float | None = budget.calls
        self.exceeded: BudgetExceeded | None = None
        self._name = name
        self._whose = ""
        self._stops = StopCallbacks()
        self.on_stop: OnStop = self._stops.on_stop

    def end_call(self, answer: Answer | None) -> None:
        """Count the end of a call, and call the stop callbacks if the budget is spent."""
        if answer is None:
            return super().end_call(None)
        priced = self._priced(answer)
        super().end_call(priced)
        if self.budget.usd is not None and priced.usd is None and not priced.cached:
            self._exceed(
                f"the price of the model {priced.model!r} is unknown, so usd={self.budget.usd:g} cannot be "
                f"kept. Pass prices={{{priced.model!r}: (dollars per million input, output tokens)}}, or "
                "limit tokens= instead"
            )
        self.look()

    def look(self) -> None:
        """Call the stop callbacks if money or tokens are spent."""
        spent = self.spent()
        for bound, used, unit in (
            (self.budget.usd, spent.usd, "USD"),
            (self.budget.tokens, spent.tokens, "tokens"),
        ):
            if bound is not None and used >= bound:
                self._exceed(f"{used:g} of {bound:g} {unit}{self._whose} are spent")

    def spent(self) -> Spent:
        """Return what counts against the bounds."""
        return Spent(self.usd, self.tokens, self.calls)

    def check(self) -> None:
        """Raise an error if the budget is spent.

        Raises:
            BudgetExceeded: with the reason.
        """
        if self.exceeded is not None:
            raise BudgetExceeded(*self.exceeded.args)

    def begun(self) -> None:
        """End the budget if an attempt that has begun took its last call."""
        if self.most_calls is not None and self.calls >= self.most_calls:
            self._exceed(f"{self.calls} of {self.most_calls:g} calls are made")

    def _priced(self, answer: Answer) -> Answer:
        price = (self.budget.prices or {}).get(answer.model)
        return answer if price is None else answer.priced(price)

    def _exceed(self, why: str) -> None:
        if self.exceeded is None:
            self.exceeded = BudgetExceeded(
                f"{self._name}: {why}. Nothing new begins; raise the budget to go on."
            )
            self._stops.stop(self.exceeded)

    @contextmanager
    def running(self) -> Generator["Spending", None, None]:
        """Count the calls in the block."""
        seconds = self.budget.seconds
        call_off = (
            None if seconds is None else tasks.after(seconds, lambda: self._exceed(f"{seconds:g} s are over"))
        )
        try:
            with metered(self):
                yield self
        finally:
            if call_off is not None:
                call_off()
