"""The budgets around the code that runs here: `budget`, and what attempts ask of them."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mahsm._common import Price
from mahsm._model_calls import count_attempt, in_attempt, meters, observed, restored_context
from mahsm._waiting import TASK, THREAD, OnStop, Way, never_stopped, run_blocking
from mahsm.policies._budget import Budget
from mahsm.policies._shared_budget import Lease, SharedSpending, held, spending_of
from mahsm.policies._spending import Spending


def spendings() -> list[Spending]:
    """Return the spendings of the budgets around this code, from the outside in."""
    return [meter for meter in meters() if isinstance(meter, Spending)]


def check_budgets(*, shared: bool = True) -> None:
    """Check the budgets before code that counts its own calls; inside an attempt they were checked.

    Args:
        shared: Ask Redis for budgets that processes share, which blocks; False if `after_budgets` does it.

    Raises:
        BudgetExceeded: if a budget around this code is spent, or if that cannot be known now.
    """
    if not in_attempt():
        for spending in spendings():
            if shared and isinstance(spending, SharedSpending):
                spending.ask_now()
            spending.begun()
            spending.check()


def _shared_spendings() -> list[SharedSpending]:
    return [spending for spending in spendings() if isinstance(spending, SharedSpending)]


async def lease_budgets(way: Way, on_stop: OnStop = never_stopped, *, calls: bool = True) -> list[Lease]:
    """Wait until the budgets that processes share let an attempt begin; release the leases after it.

    Args:
        way: How to wait.
        on_stop: Registers a callback that ends the wait.
        calls: Lease a call, for an attempt that counts as one.

    Raises:
        BudgetExceeded: if one is spent.
        LimitError: if Redis refuses.
    """
    leases: list[Lease] = []
    try:
        shared = _shared_spendings()
        for spending in shared:
            if spending.around is None:
                inside = [each for each in shared if each.around is spending]
                leases.append(await spending.lease(way, on_stop, calls=calls, inside=inside))
    except BaseException:
        release(leases)
        raise
    return leases


def release(leases: list[Lease]) -> None:
    """Give back the calls that were leased and not made."""
    for lease in leases:
        lease.release()


def after_budgets(block: Any) -> Any:
    """Return the block; if processes share a budget around this code, it begins when that is not spent.

    Args:
        block: A block for `with` and `async with`, which then raises `BudgetExceeded` when it begins, if a
            budget is spent.
    """
    return block if in_attempt() or not _shared_spendings() else _AfterBudgets(block)


class _AfterBudgets:
    def __init__(self, block: Any) -> None:
        self._block = block

    def __enter__(self) -> Any:
        release(run_blocking(lease_budgets(THREAD, calls=False)))
        return self._block.__enter__()

    async def __aenter__(self) -> Any:
        release(await lease_budgets(TASK, calls=False))
        return await self._block.__aenter__()

    def __exit__(self, *error: Any) -> Any:
        return self._block.__exit__(*error)

    async def __aexit__(self, *error: Any) -> Any:
        return await self._block.__aexit__(*error)


def begin_attempt(leases: Sequence[Lease] = (), *, calls: bool = True) -> None:
    """Count an attempt of an item, and check the budgets.

    Args:
        leases: The calls that were leased for it.
        calls: Count the attempt as a call if it makes no model call; if False, only its model calls count.

    Raises:
        BudgetExceeded: if a budget around this code is spent.
    """
    around = spendings()
    for spending in around:
        if not calls:
            # A call before this attempt may have been the last one of the budget.
            spending.begun()
        spending.check()
    if not calls:
        return
    with held(leases):
        refused = count_attempt()
    for spending in around:
        spending.begun()
        if spending is refused:
            spending.check()


@contextmanager
def budget(
    usd: float | None = None,
    tokens: float | None = None,
    seconds: float | None = None,
    calls: int | None = None,
    prices: Mapping[str, Price] | None = None,
    shared: str | None = None,
    name: str | None = None,
) -> Generator[Spending, None, None]:
    """Limit the total spending of all edges and DSPy nodes in the block. Its arguments are those of `Budget`.

    Budgets nest: a call counts in every budget around it.

    Yields:
        The spending so far, in this block: `usd`, `tokens`, `input_tokens`, `output_tokens`,
        `cache_read_tokens`, `cache_creation_tokens`, `calls`, `cached`, and `exceeded`, the reason why
        nothing new begins, or None.

    Raises:
        EdgeError: immediately, for invalid values.
        ImportError: immediately, if it is shared and redis-py is missing.

    Example:
        >>> from mahsm import budget, vmap
        >>> edge = vmap(lambda state: state["item"] * 2, batch_key="xs", out_key="ys", on_error="drop")
        >>> with budget(calls=3) as spent:
        ...     len(edge.invoke({"xs": [1, 2]})["ys"]), len(edge.invoke({"xs": [1, 2]})["ys"])
        (2, 1)
        >>> spent.calls
        3
    """
    spending = spending_of(Budget(usd, tokens, seconds, calls, prices, shared, name), "budget")
    with restored_context(), spending.running(), observed():
        yield spending
