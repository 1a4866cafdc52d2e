"""The spending of a budget that processes share."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from mahsm._common import Answer
from mahsm._model_calls import meters
from mahsm._redis import address_of
from mahsm._waiting import THREAD, OnStop, Way, run_blocking
from mahsm.errors import BudgetExceeded, EdgeError, LimitError
from mahsm.policies._account import Account, account_of
from mahsm.policies._ask import Bounds
from mahsm.policies._budget import Budget
from mahsm.policies._spending import Spending, Spent

_PATIENCE = 2.0
"""Seconds for which code that cannot wait in line waits for an answer."""


class Lease:
    """A call that an attempt may make, and that counts already; or no call, for an attempt that is none.

    Args:
        spending: The spending that counts it, or None.
    """

    def __init__(self, spending: "SharedSpending | None") -> None:
        self._spending = spending

    def count(self) -> None:
        """Note that it counts."""
        if self._spending is not None:
            self._spending.leased(self)

    def release(self) -> None:
        """Give the call back, if it counts and no attempt has made it."""
        if self._spending is not None:
            self._spending.give_back(self)


_held: ContextVar[Sequence[Lease]] = ContextVar("mahsm_leases", default=())
"""The leases of the attempt that begins here."""


@contextmanager
def held(leases: Sequence[Lease]) -> Generator[None, None, None]:
    """Return a block in which an attempt begins that has these leases."""
    token = _held.set(leases)
    try:
        yield
    finally:
        _held.reset(token)


class SharedSpending(Spending):
    """The spending of one run or block, of a budget that others spend, too.

    `usd`, `tokens` and `calls` are those of this run; `spent()` is what counts against the bounds.

    Attributes:
        around: The outermost spending around this one of a budget of the same name, which counts for both;
            None if there is none.
    """

    # A call is leased before the attempt waits for slots and tokens, and an attempt that begins makes the one
    # that was leased for it. So what this process and the others have leased and made is never more than the
    # bound, and what is given back is only what no attempt makes.

    def __init__(self, budget: Budget, name: str, account: Account) -> None:
        super().__init__(budget, name)
        self._account = account
        self._leases: set[Lease] = set()
        self._whose = f" of the shared budget {account.name!r}"
        self._bounds = (budget.usd, budget.tokens, budget.calls)
        self.around: SharedSpending | None = None

    def spent(self) -> Spent:
        """Return what all processes have spent."""
        return self._account.spent()

    async def lease(
        self, way: Way, on_stop: OnStop, *, calls: bool, inside: "Sequence[SharedSpending]" = ()
    ) -> Lease:
        """Wait until an attempt may begin: while Redis is down, until it is back, or the wait is stopped.

        Args:
            way: How to wait.
            on_stop: Registers a callback that ends the wait.
            calls: Lease a call.
            inside: Those for which this one counts, and whose bounds hold, too.

        Raises:
            BudgetExceeded: if a budget is spent.
            LimitError: if Redis refuses.
        """
        lease = Lease(self if calls else None)
        bounds = self._tightest([self, *inside])
        may = await self._account.ask(way, bounds, on_stop, call=lease if calls else None)
        if may is False:
            self._refuse(inside)
        return lease

    def ask_now(self) -> None:
        """Ask whether the budget is spent, in code that can only block.

        Raises:
            BudgetExceeded: if it is, or if that cannot be known now.
        """
        try:
            may = run_blocking(self._account.ask(THREAD, self._bounds, timeout=_PATIENCE))
        except LimitError as refused:
            raise BudgetExceeded(*refused.args) from None
        if may is None:
            raise BudgetExceeded(
                f"the budget {self._account.name!r} is shared, and {self._account.server.address} cannot be "
                "reached, so it is not known whether it is spent. Nothing new begins."
            )
        if not may:
            self._refuse()

    def leased(self, lease: Lease) -> None:
        """Note that a call is leased."""
        with self._lock:
            self._leases.add(lease)

    def give_back(self, lease: Lease) -> None:
        """Give back a call that is leased, unless it was made."""
        with self._lock:
            if lease not in self._leases:
                return
            self._leases.discard(lease)
        self._account.add(calls=-1)

    @staticmethod
    def _tightest(spendings: "Sequence[SharedSpending]") -> Bounds:
        """Return the bounds that all of them keep to."""

        def least(bounds: "Sequence[float | None]") -> float | None:
            return min((bound for bound in bounds if bound is not None), default=None)

        usd, tokens, calls = zip(*(spending._bounds for spending in spendings), strict=True)
        return least(usd), least(tokens), least(calls)

    def _refuse(self, inside: "Sequence[SharedSpending]" = ()) -> None:
        for spending in (self, *inside):
            spending.look()
            spending.begun()
            spending.check()
        raise BudgetExceeded(
            f"{self._name}: all calls{self._whose} are made, or are about to be. Nothing new begins; raise "
            "the budget to go on."
        )

    # As a meter.

    def begun(self) -> None:
        """End the budget if its last call is made; calls that are leased are still to be made."""
        calls = self.spent().calls  # first, since calls are leased before they are known to be spent
        if self.most_calls is not None and calls >= self.most_calls and not self._leases:
            self._exceed(f"{calls:g} of {self.most_calls:g} calls{self._whose} are made")

    def begin_attempt(self) -> bool:
        with self._lock:
            self.calls += 1
            leased = self._leases.intersection(_held.get()) if self.around is None else None
            if leased:
                self._leases -= leased
                return True
        self._add(calls=1)
        return True

    def cancel_attempt(self) -> None:
        super().cancel_attempt()
        self._add(calls=-1)

    def begin_call(self) -> None:
        super().begin_call()
        self._add(calls=1)

    def end_call(self, answer: Answer | None) -> None:
        """Count the end of a call for all processes."""
        if answer is not None and answer.cached:
            self._add(calls=-1)
        elif answer is not None:
            priced = self._priced(answer)
            self._add(priced.usd or 0.0, priced.input_tokens + priced.output_tokens)
        super().end_call(answer)

    def _add(self, usd: float = 0.0, tokens: float = 0.0, calls: float = 0.0) -> None:
        if self.around is None:
            self._account.add(usd, tokens, calls)

    @contextmanager
    def running(self) -> Generator[Spending, None, None]:
        """Count the calls in the block, and stop it when others have spent the budget."""
        same = (each for each in meters() if isinstance(each, SharedSpending))
        self.around = next((each for each in same if each._account is self._account), None)
        if self.around is not None:
            self._leases = self.around._leases
        end = self._account.listen(self.look)
        try:
            with super().running():
                yield self
        finally:
            end()


def spending_of(budget: Budget, name: str) -> Spending:
    """Return the spending of a run or block of this name, which begins."""
    if budget.shared is None or budget.name is None:
        return Spending(budget, name)
    address = address_of(budget.shared, "Budget(shared=...)", EdgeError)
    return SharedSpending(budget, name, account_of(budget.shared, address, budget.name))
