"""`Budget`: limits on money, tokens, time and calls, after which nothing new begins."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from mahsm._common import Answer, is_figure, is_price, shown
from mahsm._model_calls import (
    Meter,
    count_attempt,
    in_attempt,
    metered,
    meters,
    observed,
    restored_context,
)
from mahsm._waiting import OnStop, StopCallbacks, tasks
from mahsm.errors import BudgetExceeded, EdgeError


@dataclass(frozen=True)
class Budget:
    """A limit on spending: of each run of an edge, or of everything in a `with budget(...)` block.

    When it is spent, no item and no further attempt begins. Calls in flight go on, so their cost may exceed
    the budget. The remaining items fail with `BudgetExceeded`, which `on_error` handles.

    Money and tokens are those that DSPy's and LangChain's models report, and `mahsm.limits.report`. Answers
    from a cache are free. If a price is unknown, a `usd` budget ends after the first answer, since it cannot
    be kept. Prices of the providers' own models are known; give `prices` for others.

    Args:
        usd: US dollars, > 0.
        tokens: Input and output tokens, > 0.
        seconds: Seconds from the start of the run or block, > 0.
        calls: Model calls, >= 1. A target that calls no model counts as one call, unless it contains a graph.
        prices: From a model's name to US dollars per million input and output tokens.

    Raises:
        EdgeError: immediately, for invalid values.

    Example:
        >>> from mahsm import Budget, vmap
        >>> def double(state):
        ...     return state["item"] * 2
        >>> once = {"budget": Budget(calls=2), "on_error": "drop", "max_concurrency": 1}
        >>> edge = vmap(double, batch_key="xs", out_key="ys", **once)
        >>> edge.invoke({"xs": [1, 2, 3, 4]})
        {'ys': [2, 4]}
    """

    usd: float | None = None
    tokens: float | None = None
    seconds: float | None = None
    calls: int | None = None
    prices: Mapping[str, tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        bounds = {"usd": self.usd, "tokens": self.tokens, "seconds": self.seconds, "calls": self.calls}
        for name, value in bounds.items():
            if value is not None and not (is_figure(value) and value > 0):
                raise EdgeError(
                    f"Budget: {name}={shown(value)}; expected a number > 0, or None for no bound."
                )
        if all(value is None for value in bounds.values()):
            raise EdgeError("Budget() has no limit; pass at least one of usd=, tokens=, seconds= and calls=.")
        for model, price in (self.prices or {}).items():
            if not is_price(price):
                raise EdgeError(
                    f"Budget: prices[{model!r}]={shown(price)}; expected US dollars per million input "
                    "and output tokens, such as (0.15, 0.6)."
                )


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
        for bound, spent, unit in (
            (self.budget.usd, self.usd, "USD"),
            (self.budget.tokens, self.tokens, "tokens"),
        ):
            if bound is not None and spent >= bound:
                self._exceed(f"{spent:g} of {bound:g} {unit} are spent")

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


def spendings() -> list[Spending]:
    """Return the spendings of the budgets around this code, from the outside in."""
    return [meter for meter in meters() if isinstance(meter, Spending)]


def check_budgets() -> None:
    """Check the budgets before code that counts its own calls; inside an attempt they were checked.

    Raises:
        BudgetExceeded: if a budget around this code is spent.
    """
    if not in_attempt():
        for spending in spendings():
            spending.begun()
            spending.check()


def begin_attempt(*, calls: bool = True) -> None:
    """Count an attempt of an item, and check the budgets.

    Args:
        calls: Count the attempt as a call if it makes no model call; if False, only its model calls count.

    Raises:
        BudgetExceeded: if a budget around this code is spent.
    """
    held = spendings()
    for spending in held:
        if not calls:
            # A call before this attempt may have been the last one of the budget.
            spending.begun()
        spending.check()
    if not calls:
        return
    refused = count_attempt()
    for spending in held:
        spending.begun()
        if spending is refused:
            spending.check()


@contextmanager
def budget(
    usd: float | None = None,
    tokens: float | None = None,
    seconds: float | None = None,
    calls: int | None = None,
    prices: Mapping[str, tuple[float, float]] | None = None,
) -> Generator[Spending, None, None]:
    """Limit the total spending of all edges and DSPy nodes in the block. Its arguments are those of `Budget`.

    Budgets nest: a call counts in every budget around it.

    Yields:
        The spending so far: `usd`, `tokens`, `input_tokens`, `output_tokens`, `calls`, `cached`, and
        `exceeded`, the reason why nothing new begins, or None.

    Raises:
        EdgeError: immediately, for invalid values.

    Example:
        >>> from mahsm import budget, vmap
        >>> edge = vmap(lambda state: state["item"] * 2, batch_key="xs", out_key="ys", on_error="drop")
        >>> with budget(calls=3) as spent:
        ...     len(edge.invoke({"xs": [1, 2]})["ys"]), len(edge.invoke({"xs": [1, 2]})["ys"])
        (2, 1)
        >>> spent.calls
        3
    """
    spending = Spending(Budget(usd, tokens, seconds, calls, prices), "budget")
    with restored_context(), spending.running(), observed():
        yield spending
