"""`cache`: one call per key, across threads and event loops; errors are not kept."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mahsm import cache, retry, vmap, xcs
from mahsm.compose import _cache
from mahsm.errors import EdgeError


class Counting:
    """A function that counts its calls, and gives a new object each time."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, *args: Any, **options: Any) -> object:
        self.calls.append((args, options))
        return object()


def test_equal_calls_are_made_once() -> None:
    counting = Counting()
    cached = cache(counting)
    assert cached("a") is cached("a")
    assert cached("a", x=[1, {"b": 2, "c": 3}]) is cached("a", x=[1, {"c": 3, "b": 2}])
    assert cached("b") is not cached("a")
    assert len(counting.calls) == 3
    assert cached.info() == (3, 3, 1000, 3)
    cached.clear()
    cached("a")
    assert cached.info().misses == 4


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: [x], lambda x: {"k": (x,)}, lambda x: {"k": [{"x": x}]}]
)
def test_values_of_different_types_are_different(wrap: Any) -> None:
    counting = Counting()
    cached = cache(counting)
    for value in (1, True, 1.0, "1", b"1", None, 0.0, -0.0):
        cached(wrap(value))
    assert len(counting.calls) == 8


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=2),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=2), parts, max_size=3),
    max_leaves=5,
)


@given(plain, plain)
def test_keys_are_equal_if_values_and_types_are(left: Any, right: Any) -> None:
    counting = Counting()
    cached = cache(counting)
    cached(left)
    cached(right)
    assert len(counting.calls) == (1 if typed(left) == typed(right) else 2)


def typed(value: Any) -> Any:
    """Return a value in a form in which values of other types, and signed zeros, differ."""
    if isinstance(value, list):
        return ["list", *map(typed, value)]
    if isinstance(value, dict):
        return {key: typed(part) for key, part in value.items()}
    return type(value).__name__, repr(value)


def test_a_key_of_the_users() -> None:
    counting = Counting()
    cached = cache(counting, key=lambda lock, x: x)
    assert cached(threading.Lock(), 1) is cached(threading.Lock(), 1)
    with pytest.raises(TypeError, match=r"an argument of Counting has no key: .* Pass key="):
        cache(counting)(threading.Lock())


def test_results_make_room_and_grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    counting, now = Counting(), 0.0
    cached = cache(counting, max_size=2)
    for x in "abcab":
        cached(x)
    assert len(counting.calls) == 5
    monkeypatch.setattr(_cache, "_now", lambda: now)
    cached = cache(ttl=10)(counting)
    cached("a")
    now = 9.0
    cached("a")
    assert len(counting.calls) == 6
    now = 11.0
    cached("a")
    assert len(counting.calls) == 7
    assert cache(counting, max_size=None).info().maxsize is None


def test_eight_misses_from_four_threads_and_two_loops_are_one_call() -> None:
    begun, go = threading.Event(), threading.Event()
    calls: list[str] = []

    @cache
    async def ask(q: str) -> str:
        calls.append(q)
        begun.set()
        await asyncio.to_thread(go.wait, 30)
        return f"<{q}>"

    async def several() -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask("q")) for _ in range(2)]
        return [task.result() for task in tasks]

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(asyncio.run, several()) for _ in range(4)]
        assert begun.wait(30)
        while ask.info().hits < 7:
            pass
        go.set()
        assert [future.result() for future in futures] == [["<q>", "<q>"]] * 4
    assert calls == ["q"]


def test_blocking_misses_are_one_call() -> None:
    go, calls = threading.Event(), 0

    @cache
    def ask(q: str) -> str:
        nonlocal calls
        calls += 1
        assert go.wait(30)
        return f"<{q}>"

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(ask, "q") for _ in range(4)]
        futures += [pool.submit(lambda: asyncio.run(ask.acall("q"))) for _ in range(4)]
        while ask.info().hits < 7:
            pass
        go.set()
        assert [future.result() for future in futures] == ["<q>"] * 8
    assert calls == 1


def test_an_error_goes_to_all_that_wait_and_is_not_kept() -> None:
    go, calls = threading.Event(), 0

    @cache
    def fails(q: str) -> str:
        nonlocal calls
        calls += 1
        assert go.wait(30)
        if calls == 1:
            raise ValueError(q)
        return q

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(fails, "q") for _ in range(4)]
        while fails.info().hits < 3:
            pass
        go.set()
        for future in futures:
            with pytest.raises(ValueError, match="q"):
                future.result()
    assert fails("q") == "q"
    assert calls == 2


@pytest.mark.parametrize("first", [True, False])
async def test_a_caller_that_is_cancelled_takes_nothing_from_the_others(first: bool) -> None:
    begun, go, calls = asyncio.Event(), asyncio.Event(), 0

    @cache
    async def ask(q: str) -> str:
        nonlocal calls
        calls += 1
        begun.set()
        await go.wait()
        return f"<{q}>"

    callers = [asyncio.ensure_future(ask("q")) for _ in range(3)]
    await begun.wait()
    await asyncio.sleep(0)
    gone = callers.pop(0 if first else 1)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    go.set()
    assert [await caller for caller in callers] == ["<q>", "<q>"]
    assert calls == 1


async def test_when_all_callers_are_cancelled_the_call_is_too() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    @cache
    async def hangs(q: str) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    callers = [asyncio.ensure_future(hangs("q")) for _ in range(2)]
    await begun.wait()
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    await asyncio.wait_for(ended.wait(), 30)


async def test_a_call_that_was_cancelled_itself_is_made_again() -> None:
    calls = 0

    @cache
    async def ask(q: str) -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError
        return q

    assert await ask("q") == "q"
    assert calls == 2


def test_stacked() -> None:
    calls: list[str] = []

    @cache(ttl=3600)
    @retry(max_attempts=3, base=0)
    @xcs.jit
    def ask(q: str) -> str:
        calls.append(q)
        if len(calls) < 3:
            raise ConnectionError
        return f"<{q}>"

    assert ask("q") == ask("q") == "<q>"
    assert calls == ["q"] * 3
    assert vmap(lambda state: ask(state["item"]), batch_key="qs", out_key="found").invoke(
        {"qs": ["q", "q"]}
    ) == {"found": ["<q>", "<q>"]}
    assert len(calls) == 3
    assert ask.__name__ == "ask"


@dataclass(frozen=True)
class Query:
    text: str


def test_dataclasses_are_compared_by_their_fields() -> None:
    cached = cache(Counting())
    assert cached(Query("a")) is cached(Query("a"))
    assert cached(Query("a")) is not cached(Query("b"))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cache(3), TypeError, "cache got 3"),
        (lambda: cache(len, ttl=0), EdgeError, "ttl=0"),
        (lambda: cache(len, max_size=0), EdgeError, "max_size=0"),
        (lambda: cache(len, key=3), EdgeError, "key=3"),
    ],
)
def test_what_cannot_be_cached(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
