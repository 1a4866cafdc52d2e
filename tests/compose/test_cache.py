"""`cache`: keys, one flight for equal calls, and what cancellations and errors do to it."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.errors import GraphInterrupt
from pydantic import BaseModel

from mahsm import cache
from mahsm.compose import CacheInfo
from mahsm.errors import BudgetExceeded
from mahsm.operators import Operator

WAIT = 30.0

# Keys.


class Model(BaseModel):
    x: Any = None


@dataclass
class Data:
    x: Any = None


@dataclass(frozen=True)
class Frozen:
    x: Any = None


leaves = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([0.0, -0.0, 1.0, 2.0])
    | st.text("ab", max_size=2)
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.sampled_from("abc") | st.integers(0, 1), inner, max_size=3),
        st.builds(Model, x=inner),
        st.builds(Data, x=inner),
    ),
    max_leaves=6,
)


def spelled(value: Any) -> Any:
    """A value with its types, in which equality is identity of what a reader sees."""
    if isinstance(value, list | tuple):
        return type(value).__name__, *map(spelled, value)
    if isinstance(value, dict):
        return "dict", *sorted(((repr(key), spelled(entry)) for key, entry in value.items()), key=repr)
    if isinstance(value, Model | Data):
        return type(value).__name__, spelled(value.x)
    return type(value).__name__, repr(value)


def is_hit(*calls: tuple[tuple[Any, ...], dict[str, Any]]) -> bool:
    """Whether all calls are one for the cache."""
    cached = cache(lambda *args, **kwargs: object())
    return len({id(cached(*args, **kwargs)) for args, kwargs in calls}) == 1


@given(values, values)
def test_two_calls_are_equal_if_a_reader_sees_no_difference(one: Any, other: Any) -> None:
    assert is_hit(((one,), {}), ((other,), {})) is (spelled(one) == spelled(other))
    assert is_hit(((), {"a": one}), ((), {"a": other})) is (spelled(one) == spelled(other))


@given(st.permutations([("a", 1), ("b", [True]), ("c", {"d": 1.0})]))
def test_the_order_of_a_dict_does_not_matter(pairs: list[tuple[str, Any]]) -> None:
    ordered = {"a": 1, "b": [True], "c": {"d": 1.0}}
    assert is_hit(((ordered,), {}), ((dict(pairs),), {}))
    assert is_hit(((), ordered), ((), dict(pairs)))


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (np.ones(2), np.ones(2), True),
        (np.ones(2), np.ones(2, np.float32), False),
        (np.array([1, "a"], object), np.array([1, "a"], object), True),
        ({1, 2}, {2, 1}, True),
        (Frozen(1), Frozen(True), False),
        (Frozen([1]), Frozen([1]), True),
        (len, len, True),
        (float("nan"), float("nan"), True),
    ],
)
def test_other_arguments(one: Any, other: Any, equal: bool) -> None:
    assert is_hit(((one,), {}), ((other,), {})) is equal


def test_arguments_by_name_and_by_position_are_equal() -> None:
    calls: list[Any] = []

    @cache
    def function(a: int, b: int = 2, *rest: int, c: int = 3) -> int:
        calls.append((a, b, rest, c))
        return len(calls)

    assert function(1, 2) == function(1, b=2) == function(b=2, a=1) == 1
    assert [function(1), function(1, 2, 3), function(1, 2, c=3), function(1, c=3)] == [2, 3, 4, 5]

    @cache
    def positional(a: int, /, **b: int) -> int:
        calls.append((a, b))
        return len(calls)

    assert positional(1, a=2) != positional(2, a=1)
    assert cache(max)(1, 2) == 2


def test_what_cannot_be_a_key() -> None:
    class Odd:
        __hash__ = None  # type: ignore[assignment]

    with pytest.raises(TypeError, match=r"the arguments .*Odd.* cannot be the key of a cache: .* Pass key="):
        cache(lambda x: x)([Odd()])
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match="cannot be the key of a cache"):
        cache(len)(endless)
    cached = cache(lambda x, y=0: object(), key=lambda x, y=0: type(x).__name__)
    assert cached(Odd()) is cached(Odd(), y=2)


def test_results_are_not_copied() -> None:
    cached = cache(lambda x: [x])
    assert cached(1) is cached(1)


# Size, time, statistics.


def test_statistics_are_those_of_functools() -> None:
    cached = cache(lambda x: x, max_size=2)
    assert [cached(x) for x in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert cached.info() == CacheInfo(hits=2, misses=4, maxsize=2, currsize=2)
    cached.clear()
    assert cached.info() == CacheInfo(hits=0, misses=0, maxsize=2, currsize=0)
    unbounded = cache(lambda x: x, max_size=None)
    assert [unbounded(x) for x in range(2000)][-1] == 1999
    assert unbounded.info() == CacheInfo(0, 2000, None, 2000)


def test_results_are_kept_for_a_while() -> None:
    cached = cache(lambda x: object(), ttl=0.05)
    first = cached(1)
    assert cached(1) is first
    time.sleep(0.06)
    assert cached(1) is not first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ttl": 0}, "ttl=0; expected seconds > 0, or None for no limit"),
        ({"max_size": 0}, "max_size=0; expected an integer >= 1, or None for no limit"),
        ({"max_size": 1.5}, "max_size=1.5; expected an integer"),
        ({"key": "x"}, "key='x'; expected a function of the arguments"),
    ],
)
def test_invalid_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        cache(len, **options)


# One flight.


class Call:
    """A function that says when it is called and ends when it is told to."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.calls = 0
        self.error: BaseException | None = None
        self._lock = threading.Lock()

    def enter(self) -> None:
        with self._lock:
            self.calls += 1
        self.begun.set()

    def leave(self) -> str:
        if self.error is not None:
            raise self.error
        return "value"

    def sync(self, x: int) -> str:
        self.enter()
        assert self.go_on.wait(WAIT)
        return self.leave()

    async def awaited(self, x: int) -> str:
        self.enter()
        assert await asyncio.to_thread(self.go_on.wait, WAIT)
        return self.leave()


class Awaiting(Operator):
    """An operator that awaits, and whose call blocks."""

    call: Any

    async def aforward(self, input: Any, /) -> str:
        return await self.call.awaited(input)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def all_call(cached: Any, threads: int, loops: int, per_loop: int) -> list["Future[list[Any]]"]:
    """Call with equal arguments, in threads and from tasks of several loops."""
    pool = ThreadPoolExecutor(threads + loops)

    def in_thread() -> list[Any]:
        return [cached(1)]

    def on_loop() -> list[Any]:
        async def all_of() -> list[Any]:
            tasks = [asyncio.ensure_future(cached.acall(1)) for _ in range(per_loop)]
            return [await task for task in tasks]

        return asyncio.run(all_of())

    found = [pool.submit(in_thread) for _ in range(threads)] + [pool.submit(on_loop) for _ in range(loops)]
    pool.shutdown(wait=False)
    return found


@pytest.mark.parametrize("kind", ["sync", "operator"])
def test_equal_calls_from_threads_and_loops_are_one(kind: str) -> None:
    call = Call()
    cached: Any = cache(call.sync if kind == "sync" else Awaiting(call))
    found = all_call(cached, 4, 2, 2)
    until(lambda: cached.info().hits == 7)
    call.go_on.set()
    assert [value for each in found for value in each.result(WAIT)] == ["value"] * 8
    assert (call.calls, cached.info()) == (1, CacheInfo(7, 1, 1000, 1))


def test_equal_calls_of_an_async_function_from_loops_are_one() -> None:
    call = Call()
    cached: Any = cache(call.awaited)
    found = all_call(cached, 0, 3, 3)
    until(lambda: cached.info().hits == 8)
    call.go_on.set()
    assert [value for each in found for value in each.result(WAIT)] == ["value"] * 9
    assert call.calls == 1


@pytest.mark.parametrize("kind", ["sync", "operator"])
def test_an_error_goes_to_all_who_waited_and_is_not_kept(kind: str) -> None:
    call = Call()
    call.error = ValueError("no")
    cached: Any = cache(call.sync if kind == "sync" else Awaiting(call))
    found = all_call(cached, 4, 2, 1)
    until(lambda: cached.info().hits == 5)
    call.go_on.set()
    assert [str(each.exception(WAIT)) for each in found] == ["no"] * 6
    assert call.calls == 1
    call.error = None
    assert cached(1) == "value"
    assert call.calls == 2


@pytest.mark.parametrize("error", [BudgetExceeded("spent"), GraphInterrupt(()), KeyboardInterrupt()])
def test_an_error_of_the_first_caller_alone_makes_another_one_call(error: BaseException) -> None:
    call = Call()
    call.error = error
    cached: Any = cache(call.sync)
    raised: list[BaseException] = []

    def first() -> None:
        try:
            cached(1)
        except BaseException as found:  # noqa: BLE001
            raised.append(found)

    thread = threading.Thread(target=first)
    thread.start()
    assert call.begun.wait(WAIT)
    second = all_call(cached, 1, 0, 0)[0]
    until(lambda: cached.info().hits == 1)
    # The second call of the function raises nothing.
    original = call.leave

    def leave() -> str:
        if call.calls > 1:
            return "value"
        return original()

    call.leave = leave  # type: ignore[method-assign]
    call.go_on.set()
    thread.join(WAIT)
    assert second.result(WAIT) == ["value"]
    assert (raised, call.calls) == ([error], 2)


@pytest.mark.parametrize("cancelled", [0, 1])
@pytest.mark.parametrize("kind", ["sync", "awaited"])
async def test_a_cancelled_caller_does_not_cancel_the_call_for_others(kind: str, cancelled: int) -> None:
    call = Call()
    cached = cache(getattr(call, kind))
    callers = [asyncio.ensure_future(cached.acall(1)) for _ in range(3)]
    assert await asyncio.to_thread(call.begun.wait, WAIT)
    callers[cancelled].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers[cancelled]
    call.go_on.set()
    others = [each for place, each in enumerate(callers) if place != cancelled]
    assert [await each for each in others] == ["value", "value"]
    assert (call.calls, await cached.acall(1)) == (1, "value")


async def test_the_last_caller_that_is_cancelled_cancels_the_call() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    @cache
    async def forever(x: int) -> int:
        begun.set()
        try:
            await asyncio.sleep(WAIT if not ended.is_set() else 0)
        finally:
            ended.set()
        return x

    callers = [asyncio.ensure_future(forever(1)) for _ in range(2)]
    await begun.wait()
    for caller in callers:
        caller.cancel()
    await asyncio.wait_for(ended.wait(), WAIT)
    # A call that comes now makes a new one.
    assert await forever(1) == 1
    assert forever.info().misses == 2


def test_a_call_that_ends_with_its_loop_is_made_again_elsewhere() -> None:
    call = Call()
    cached: Any = cache(call.awaited)

    async def leave() -> None:
        task = asyncio.ensure_future(cached(1))
        await asyncio.to_thread(call.begun.wait, WAIT)
        waiting.set()
        await asyncio.to_thread(ready.wait, WAIT)
        task.cancel()

    waiting, ready = threading.Event(), threading.Event()
    thread = threading.Thread(target=asyncio.run, args=[leave()])
    thread.start()
    assert waiting.wait(WAIT)
    other = all_call(cached, 0, 1, 1)[0]
    until(lambda: cached.info().hits == 1)
    ready.set()
    # The loop of the first caller ends when its threads have.
    call.go_on.set()
    thread.join(WAIT)
    assert other.result(WAIT) == ["value"]


def test_what_is_cleared_meanwhile_is_not_kept() -> None:
    call = Call()
    cached: Any = cache(call.sync)
    found = all_call(cached, 2, 0, 0)
    until(lambda: cached.info().hits == 1)
    cached.clear()
    call.go_on.set()
    assert [each.result(WAIT) for each in found] == [["value"]] * 2
    assert cached.info().currsize == 0


def test_a_call_that_would_wait_for_itself() -> None:
    @cache
    def endless(x: int) -> int:
        return endless(x)

    with pytest.raises(RuntimeError, match=r"endless is called inside of a call with the same arguments"):
        endless(1)

    @cache
    async def endless_async(x: int) -> int:
        return await endless_async(x)

    with pytest.raises(RuntimeError, match=r"endless_async is called inside of a call"):
        asyncio.run(endless_async(1))

    @cache
    def fibonacci(n: int) -> int:
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert fibonacci(60) == 1548008755920


async def test_a_blocking_call_on_the_loop_of_the_flight_is_refused() -> None:
    call = Call()
    cached: Any = cache(Awaiting(call))
    task = asyncio.ensure_future(cached.acall(1))
    assert await asyncio.to_thread(call.begun.wait, WAIT)
    with pytest.raises(RuntimeError, match="on the event loop of one"):
        cached(1)
    call.go_on.set()
    assert await task == "value"


async def begin_on_loop(cached: Any, keys: list[tuple[int, bool]], found: list[tuple[int, Any]]) -> None:
    """Call with these keys; cancel some of the callers; note what the others get."""
    tasks = [(key, is_cancelled, asyncio.ensure_future(cached.acall(key))) for key, is_cancelled in keys]
    await asyncio.sleep(0)
    for _, is_cancelled, task in tasks:
        if is_cancelled:
            task.cancel()
    for key, is_cancelled, task in tasks:
        try:
            found.append((key, await task))
        except ValueError as error:
            found.append((key, error))
        except asyncio.CancelledError:
            assert is_cancelled


def call_in_thread(cached: Any, key: int, found: list[tuple[int, Any]]) -> None:
    try:
        found.append((key, cached(key)))
    except ValueError as error:
        found.append((key, error))


on_loops = st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=5)


@given(st.lists(st.integers(0, 2), max_size=4), on_loops, on_loops, st.sets(st.integers(0, 2)))
def test_any_mixture_of_callers(
    threads: list[int], one: list[tuple[int, bool]], other: list[tuple[int, bool]], failing: set[int]
) -> None:
    """Each gets the value or the error of its key; calls of a key do not overlap, unless callers leave."""
    inside: Counter[int] = Counter()
    overlaps: list[int] = []

    @cache
    def function(key: int) -> int:
        inside[key] += 1
        if inside[key] > 1:
            overlaps.append(key)
        time.sleep(0.0005)
        inside[key] -= 1
        if key in failing:
            raise ValueError(key)
        return 10 * key

    found: list[tuple[int, Any]] = []
    with ThreadPoolExecutor(len(threads) + 2) as pool:
        running = [pool.submit(call_in_thread, function, key, found) for key in threads]
        running += [pool.submit(asyncio.run, begin_on_loop(function, keys, found)) for keys in (one, other)]
        for each in running:
            each.result(WAIT)
    assert all(repr(value) == repr(ValueError(key) if key in failing else 10 * key) for key, value in found)
    if not any(is_cancelled for _, is_cancelled in one + other):
        assert overlaps == []
        assert len(found) == len(threads) + len(one) + len(other)
