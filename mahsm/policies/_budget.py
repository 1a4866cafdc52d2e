"""`Budget`: limits on money, tokens, time and calls, after which nothing new begins."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mahsm._common import Price, is_figure, is_price, shown
from mahsm._redis import address_of, may_hold_password
from mahsm.errors import EdgeError


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
        prices: From a model's name to US dollars per million input and output tokens. A third price is that
            of input tokens that are read from the provider's prompt cache; without it they cost as others.
        shared: URL of a Redis, such as `"redis://localhost:6379/0"`: all processes that have a budget of this
            name there spend it together. `seconds` stays that of each run or block.
        name: Name of a shared budget. Under another name, it begins anew.

    Raises:
        EdgeError: immediately, for invalid values.
        ImportError: immediately, if it is shared and redis-py is missing.

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
    prices: Mapping[str, Price] | None = None
    shared: str | None = field(default=None, repr=False)
    name: str | None = None

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
                    "and output tokens, such as (0.15, 0.6), or also per million input tokens from the "
                    "provider's cache, such as (0.15, 0.6, 0.075)."
                )
        self._check_shared()

    def __getstate__(self) -> dict[str, Any]:
        if self.shared is not None and may_hold_password(self.shared):
            raise EdgeError(
                f"the budget {self.name!r} cannot be pickled: its URL may hold a password. Make it where it "
                "is used, with the URL from the environment."
            )
        return dict(self.__dict__)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Budget":
        return self  # it does not change

    def _check_shared(self) -> None:
        if self.name is not None and (not isinstance(self.name, str) or not self.name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EdgeError(f"Budget: name={shown(self.name)}; expected a string, such as 'nightly'.")
        if self.shared is None:
            if self.name is not None:
                raise EdgeError(
                    f"Budget: name={self.name!r} without shared=; only a budget that processes share has one."
                )
            return
        if self.name is None:
            raise EdgeError(
                "Budget(shared=...) has no name; processes with the same name spend it together. Pass name=, "
                "such as name='nightly-2026-07-31'."
            )
        if self.usd is self.tokens is self.calls is None:
            raise EdgeError(
                "Budget(shared=...) has nothing to share; pass at least one of usd=, tokens= and calls=."
            )
        address_of(self.shared, "Budget(shared=...)", EdgeError)
