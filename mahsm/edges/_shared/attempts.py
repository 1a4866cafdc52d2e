"""The attempts of an item: when each one begins, how it calls the target, and whether there is a next one."""

import time
from collections.abc import Callable, Coroutine, Generator
from concurrent import futures
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain, repeat
from typing import Any, Literal, Never, TypeAlias, cast

import tenacity
from langgraph.errors import GraphBubbleUp

from mahsm import _spans
from mahsm._common import AsyncCall, Overlay, State, SyncCall, Update
from mahsm._model_calls import AttemptCounter, calls, metered, meters, unparsed_in
from mahsm._spans import EdgeSpan, Timings
from mahsm._waiting import (
    TASK,
    THREAD,
    Closed,
    LeftBehind,
    StopCallbacks,
    Way,
    left_behind,
    run_blocking,
    tasks,
)
from mahsm.edges._shared.adaptive import Adaptive
from mahsm.edges._shared.call_spec import CallSpec
from mahsm.edges._shared.hedging import race, race_async
from mahsm.edges._shared.items import Item, lent
from mahsm.edges._shared.saving import ends_all
from mahsm.errors import BudgetExceeded
from mahsm.limits._internal import Admission, Limited
from mahsm.nodes._internal import provider_of
from mahsm.policies import Retry, is_rate_limited
from mahsm.policies._internal import (
    Durations,
    Lease,
    SharedSpending,
    begin_attempt,
    is_refused,
    lease_budgets,
    release,
    retry_budget,
    spendings,
)

AnyCall: TypeAlias = SyncCall | AsyncCall
"""The sync or the async side of a target, whichever the run calls."""

StateOf = Callable[[], tuple[State, Overlay]]
"""Returns the state that the target is called with, and the part of it that is the item's own."""


class AttemptRunner:
    """Runs the attempts of the items of one edge run.

    Args:
        spec: The specification.
        way: How the run waits.
        span: The span of the run, if it is traced.
        not_begun: Stops attempts that wait to begin.
        left: Counts the calls that the run leaves behind.
        end: Ends the run after its deadline, given in seconds. A timer calls it too, perhaps a little later.
        adaptive: Adapts the number of slots, if the edge is adaptive.
        named: The name in the error of an attempt's timeout; an edge adds a note with its own instead.

    Attributes:
        is_plain: True if an attempt is a call of the target, with slots and without anything else.
    """

    # Tokens and slots.
    #
    # An attempt needs two things to begin: tokens of the provider's bucket, and a slot of each edge run
    # around it.
    #
    # - It must not hold a slot while it waits for tokens. With a bucket per key, items of one throttled key
    #   would hold all slots, and items of other keys could not use their tokens.
    # - It must not hold tokens while it waits for a slot. The bucket counts them from the moment at which it
    #   gave them, so tokens that are used later add to those that the bucket has given meanwhile, and the
    #   provider would see more calls in a second than its limit allows.
    #
    # So whichever is waited for first, the other one has to be there immediately (`_admitted`). The attempt
    # waits for tokens, then tries to take slots without waiting. If there are none, it gives the tokens back,
    # waits for slots, and tries to take tokens without waiting; if there are none, it gives the slots back
    # and begins again.
    #
    # Invariant: when the target is called, both are held, and the tokens have just been taken. Whatever ends
    # the attempt before that gives back what it holds, since no call was made.

    def __init__(
        self,
        spec: CallSpec,
        way: Way,
        span: EdgeSpan | None,
        not_begun: StopCallbacks,
        left: LeftBehind,
        end: Callable[[float], object],
        adaptive: Adaptive | None = None,
        named: str = "",
    ) -> None:
        limited = None
        if spec.tries.rate_limit is not None:
            limited = Limited.of(
                spec.tries.rate_limit, partial(provider_of, spec.target.model), spec.tries.retry
            )
        self._way = way
        self.not_begun = not_begun
        self._left = left
        # Kept only where it may be called: it refers to the run, which refers to this object. Such a
        # cycle would leave the memory of each run to the garbage collector.
        self._end = _never if spec.ends.deadline is None else end
        self._spec = spec
        self._limited = limited
        self._retries = retry_budget(None if spec.tries.retry is None else self._provider())
        self._adaptive = adaptive
        self._named = named
        self._deadline = None if spec.ends.deadline is None else time.monotonic() + spec.ends.deadline
        self._durations = Durations(spec.tries.hedge) if spec.tries.hedge else None
        self._unwatched = not (limited or adaptive or spec.tries.hedge or self._deadline or meters())
        self._shares_budget = any(isinstance(meter, SharedSpending) for meter in meters())
        self._timings = None if span is None else span.timings
        self._is_simple = self._unwatched and self._timings is None
        self.is_plain = self._is_simple and spec.tries.timeout is None and spec.tries.retry is None

    def _provider(self) -> str | None:
        if self._limited is not None:
            return self._limited.provider
        model = self._spec.target.model
        return None if model is None else provider_of(model)

    # An item, with all its attempts.

    async def run(self, item: Item, state_of: StateOf, call: AnyCall) -> Update:
        """Try an item until it succeeds or is given up; raise the last error as it is."""
        one = self._simply if self._is_simple else self._hedged if self._durations else self._attempt
        if self._spec.tries.retry is None:
            return await one(item, state_of, call)
        return await self._retried(item, partial(one, item, state_of, call))

    async def _retried(self, item: Item, attempt: Callable[[], Coroutine[Any, Any, Update]]) -> Update:
        """Attempt an item until it succeeds or is given up."""
        retry, began = self._spec.tries.retry, time.monotonic()
        assert retry is not None
        if retry.share is not None:
            self._retries.call(retry.share)
        item.attempts = 1
        try:
            return await attempt()
        except BaseException as error:  # noqa: BLE001  tenacity raises it, unless it is tried again
            first = error
        # Only now, since tenacity would take most of the time of an item that succeeds. It begins with the
        # outcome of the first attempt.
        attempts = chain([partial(_raise, first)], repeat(attempt))
        options, pause = self._retrying(item, retry, time.monotonic() - began), partial(self._pause, item)
        del first

        async def following() -> Update:
            return await next(attempts)()

        if self._way is TASK:
            return await tenacity.AsyncRetrying(**options, sleep=pause)(following)
        # `AsyncRetrying` would work for threads, too, at twice the cost.
        retrying = tenacity.Retrying(**options, sleep=lambda seconds: run_blocking(pause(seconds)))
        return retrying(lambda: run_blocking(following()))

    async def _hedged(self, item: Item, state_of: StateOf, call: AnyCall) -> Update:
        def attempt(one: Item) -> Coroutine[Any, Any, Update]:
            return self._attempt(one, state_of, call)

        assert self._durations is not None
        with _second(item) as second:
            if self._way is TASK:
                return await race_async(item, second, attempt, self._durations)
            return race(item, second, lambda one: run_blocking(attempt(one)), self._durations, self._left)

    def _retrying(self, item: Item, retry: Retry, seconds: float) -> dict[str, Any]:
        """Return the options of tenacity after a first attempt of so many seconds."""

        def begin(state: tenacity.RetryCallState) -> None:
            item.attempts = state.attempt_number
            if self._timings is not None and state.attempt_number > 1:
                self._timings.retries.append(state.attempt_number)

        def again(state: tenacity.RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            if (
                error is None
                or isinstance(error, GraphBubbleUp | Closed)
                or ends_all(error)
                or not retry.retries(error)
            ):
                return False
            if state.attempt_number >= retry.attempts or any(spending.exceeded for spending in spendings()):
                return False
            if is_refused(retry, self._retries, error):
                return False
            item.failure = error
            item.unparsed |= unparsed_in(error)
            return True

        def wait(state: tenacity.RetryCallState) -> float:
            return retry.wait(state.attempt_number, state.outcome.exception() if state.outcome else None)

        stop: Any = tenacity.stop_never
        if retry.timeout is not None:
            stop = tenacity.stop_before_delay(retry.timeout - seconds)
        return {"stop": stop, "wait": wait, "retry": again, "before": begin, "reraise": True}

    async def _pause(self, item: Item, seconds: float) -> None:
        item.has_nothing()
        turn = self._way.turn()
        with self.not_begun.on_stop(lambda _: turn.wake()), left_behind.on_stop(lambda _: turn.wake()):
            await turn.wait(seconds)
        self._check_may_go_on()

    # One attempt.

    async def _simply(self, item: Item, state_of: StateOf, call: AnyCall) -> Update:
        """Make an attempt of which nothing is watched: there is no limit, budget, deadline, hedge or trace.

        It does what `_attempt` does then, in one function, which takes a third of the time.
        """
        if not item.take_now():
            await item.take(self._way)
        try:
            self._check_may_go_on()
            self._left.check(self._spec.name)
            with self._calls_of(item, None):
                update = await self._called(item, call, state_of()[0], self._spec.tries.timeout)
        except futures.CancelledError as error:
            raise _reason(item, error) from None
        finally:
            item.give()
        if self._spec.tries.retry is not None:
            self._retries.success()
        return update

    async def _attempt(self, item: Item, state_of: StateOf, call: AnyCall) -> Update:
        state, adds = state_of()
        leases: list[Lease] = []
        try:
            with self._timed("wait_seconds"):
                if self._shares_budget:
                    counts = self._spec.target.graph is None
                    leases = await lease_budgets(self._way, self.not_begun.on_stop, calls=counts)
                    self._check_may_go_on()
                admission = await self._admitted(item, state, adds)
            self._check_may_begin(admission)
            if self._timings is None:
                return await self._begun(item, admission, leases, call, state)
            with _counted(self._timings, item):
                return await self._begun(item, admission, leases, call, state)
        except TimeoutError:
            self._check_deadline()
            raise
        except futures.CancelledError as error:
            raise _reason(item, error) from None
        finally:
            item.give()
            release(leases)

    async def _called(self, item: Item, call: AnyCall, state: State, timeout: float | None) -> Update:
        """Call the target."""
        if self._way is THREAD:
            return self._blocked(item, call, state, timeout)
        if timeout is None:
            return await cast("AsyncCall", call)(state)
        async with tasks.deadline(timeout, self._named):
            return await cast("AsyncCall", call)(state)

    def _blocked(self, item: Item, call: AnyCall, state: State, timeout: float | None) -> Update:
        return tasks.call(partial(call, state), timeout, item.running.on_stop, self._left, self._named)

    async def _admitted(self, item: Item, state: State, adds: Overlay) -> Admission | None:
        """Wait until the attempt may begin; the item holds its slots then."""
        if self._limited is None:
            if not item.take_now():
                await item.take(self._way)
            self._check_may_go_on(item)
            return None
        way, on_stop = self._way, self.not_begun.on_stop
        admission = self._limited.admission(state, adds, lent, item.running.on_stop)
        while True:
            with self._timed("limited_seconds"):
                taken = await admission.take(way, on_stop)
            if not taken:
                self._check_may_go_on()
            if item.take_now():
                return admission
            admission.give_back()
            await item.take(way)
            self._check_may_go_on(item)
            if await admission.take(way, on_stop, may_wait=False):
                return admission
            item.give()

    def _timed(self, what: Literal["wait_seconds", "limited_seconds"]) -> AbstractContextManager[Any]:
        """Return a block whose duration is traced, if the run is."""
        return _spans.NOTHING if self._timings is None else _timed(getattr(self._timings, what))

    def _check_may_go_on(self, item: Item | None = None) -> None:
        if (reason := self.not_begun.reason) is not None:
            if item is not None:
                item.give()
            raise Closed(reason)
        left_behind.check()

    def _check_may_begin(self, admission: Admission | None) -> None:
        """Check, after the last wait and before the target is called, that it may be called."""
        try:
            if self._is_late():
                self._end(self._spec.ends.deadline or 0.0)
            self._check_may_go_on()
            self._left.check(self._spec.name)
        except BaseException:
            if admission is not None:
                admission.give_back()
            raise

    async def _begun(
        self, item: Item, admission: Admission | None, leases: list[Lease], call: AnyCall, state: State
    ) -> Update:
        """Make one attempt, from its beginning to its settlement."""
        if self._unwatched:
            with self._calls_of(item, admission):
                update = await self._called(item, call, state, self._timeout())
            self._succeeded(0.0)
            return update
        counts = self._spec.target.graph is None
        try:
            begin_attempt(leases, calls=counts)
        except BudgetExceeded:
            if admission is not None:
                admission.give_back()
            raise
        used, failure = AttemptCounter(counted=counts), None
        cuts = self._adaptive.cuts if self._adaptive else 0
        item.began = began = time.monotonic()
        try:
            with metered(used), self._calls_of(item, admission):
                update = await self._called(item, call, state, self._timeout())
            self._succeeded(time.monotonic() - began)
            return update
        except BaseException as error:
            failure = error
            if self._adaptive is not None and is_rate_limited(error):
                self._adaptive.limited(cuts)
            raise
        finally:
            if item.over is not None:
                item.over(failure)
            if admission is not None:
                admission.end(used, failure)
            del failure  # whose traceback has this frame

    @staticmethod
    def _calls_of(item: Item, admission: Admission | None) -> AbstractContextManager[None]:
        """Return a block whose model calls pass the admission, and skip answers that could not be parsed."""
        if admission is None and not item.unparsed:
            return _spans.NOTHING
        changes: dict[str, Any] = {} if admission is None else {"gate": admission}
        if item.unparsed:
            changes["unparsed"] = calls.here().unparsed | item.unparsed
        return calls.changed(**changes)

    def _succeeded(self, seconds: float) -> None:
        if self._durations is not None:
            self._durations.add(seconds)
        if self._adaptive is not None:
            self._adaptive.succeeded()
        if self._spec.tries.retry is not None:
            self._retries.success()

    def _check_deadline(self) -> None:
        """Raise the error of the edge's deadline, if that is over, in place of the attempt's timeout."""
        if self._is_late():
            if self._timings is not None:
                self._timings.is_late = True
            # Before the slot is given back, so that no other item begins.
            self._end(self._spec.ends.deadline or 0.0)
            raise deadline_is_over(self._spec.name, self._spec.ends.deadline or 0.0) from None

    def _is_late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _timeout(self) -> float | None:
        """Return the seconds that a call may take if it begins now."""
        if self._deadline is None:
            return self._spec.tries.timeout
        left = max(0.0, self._deadline - time.monotonic())
        return left if self._spec.tries.timeout is None else min(left, self._spec.tries.timeout)


def _never(_: float) -> None:
    """Do nothing: there is no deadline."""


async def _raise(error: BaseException) -> Never:
    try:
        raise error
    finally:
        del error  # whose traceback has this frame


@contextmanager
def _timed(seconds: list[float]) -> Generator[None, None, None]:
    began = time.monotonic()
    try:
        yield
    finally:
        seconds.append(time.monotonic() - began)


@contextmanager
def _counted(timings: Timings, item: Item) -> Generator[None, None, None]:
    timings.begun.add(item.order)
    if item.is_hedge:
        timings.hedges.append(item.order)
    try:
        with _timed(timings.run_seconds):
            yield
    except Exception as error:
        if is_rate_limited(error):
            timings.rate_limited.append(item.order)
        raise


def deadline_is_over(name: str, seconds: float) -> TimeoutError:
    """Return the error of items that the deadline of an edge has cut off."""
    return TimeoutError(f"{name}: the deadline of {seconds:g} s is over")


def _reason(item: Item, error: futures.CancelledError) -> Exception:
    """Return why a thread's async target was cancelled: because the run was stopped, or by itself."""
    reason = item.running.reason
    return error if reason is None else Closed(reason)


@contextmanager
def _second(item: Item) -> Generator[Item, None, None]:
    """Make a second call of the same item, with slots of its own; each of the two can be stopped alone."""
    outside = item.running
    item.running, second = StopCallbacks(), Item(item.order, item.chain, StopCallbacks())
    second.is_hedge = True
    item.began = None
    second.unparsed = item.unparsed
    try:
        with outside.on_stop(item.running.stop), outside.on_stop(second.running.stop):
            yield second
    finally:
        item.running = outside
        item.over = None
