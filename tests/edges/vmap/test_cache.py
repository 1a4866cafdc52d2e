"""`vmap(cache=)`: which items are the same, and what becomes of a run when its cache fails."""

import asyncio
import dataclasses
import enum
import logging
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import dspy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.cache.memory import InMemoryCache
from langgraph.cache.redis import RedisCache
from langgraph.cache.sqlite import SqliteCache
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from mahsm import vmap
from mahsm._waiting import TASK, THREAD, run_blocking
from mahsm.edges._vmap.cache import Stored
from mahsm.edges._vmap.cache_key import cache_key
from tests.helpers import MODES, run_edge


class Counted:
    """A target that counts its calls."""

    def __init__(self, result: Any = None) -> None:
        self.calls: list[Any] = []
        self._result = result

    def __call__(self, state: dict[str, Any]) -> Any:
        self.calls.append(state["item"])
        return state["item"] if self._result is None else self._result

    async def later(self, state: dict[str, Any]) -> Any:
        return self(state)


def edge_of(target: Any, cache: Any, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", "cache": cache, **options})


# Keys.


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Named(enum.Enum):
    RED = 1


class Bits(enum.Flag):
    A = 1
    B = 2


@dataclasses.dataclass
class Point:
    x: Any = 0
    y: Any = 0


@dataclasses.dataclass
class Other:
    x: Any = 0
    y: Any = 0


class Model(BaseModel):
    x: Any = 0
    y: Any = 0


class Loose(BaseModel, extra="allow"):
    x: Any = 0


class Plain:
    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


class Words(set[str]):
    pass


class Text(str):
    pass


Pair = namedtuple("Pair", "x y")
ONE, OTHER = "".join(["he", "llo"]), "".join(["he", "llo"])

EQUAL: list[tuple[Any, Any]] = [
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ([ONE, ONE], [ONE, OTHER]),
    ({"x": ONE, "y": [ONE]}, {"y": [OTHER], "x": ONE}),
    ([1, (2, 3)], (1, [2, 3])),
    ({"a", "b", "c"}, frozenset({"c", "b", "a"})),
    ({"a": 1, "b": 2}, OrderedDict(b=2, a=1)),
    ({"a": 1}, defaultdict(int, a=1)),
    ({"a": 1}, Counter("a")),
    ({"a": 1}, MappingProxyType({"a": 1})),
    (b"x", bytearray(b"x")),
    (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
    (np.array([1, ONE], object), np.array([1, OTHER], object)),
    (Point({"a": 1, "b": 2}, ONE), Point({"b": 2, "a": 1}, OTHER)),
    (Model(x={"a": 1, "b": 2}), Model(x={"b": 2, "a": 1})),
    (Plain(x={"a": 1, "b": 2}, y=ONE), Plain(y=OTHER, x={"b": 2, "a": 1})),
    (Words(["a", "b"]), Words(["b", "a"])),
    (dspy.Example(a=1, b=[ONE, ONE]), dspy.Example(b=[ONE, OTHER], a=1)),
    (HumanMessage([ONE, {"a": 1, "b": 2}]), HumanMessage([OTHER, {"b": 2, "a": 1}])),
    (10**5000, 10**5000),
    (float("nan"), float("nan")),
]

DIFFERENT: list[Any] = [
    *(
        None,
        True,
        1,
        1.0,
        1j,
        "1",
        b"1",
        Text("1"),
        Decimal(1),
        np.int64(1),
        np.float32(1),
        np.float64(1),
        -1,
        10**5000,
    ),
    *(0.0, -0.0, float("nan"), float("inf"), "", b"", [], {}, set(), "\ud800"),
    *([1], [[1]], [1, 1], [1, 2], [2, 1], ["12"], ["1", "2"], {1}, {1: 1}, {"1": 1}, {1: "1"}, [(1, 1)]),
    *(
        np.array(1),
        np.array([1]),
        np.array([[1]]),
        np.array([1.0]),
        np.array([2]),
        np.zeros(2, [("a", "i4")]),
    ),
    *(Color.RED, Color.BLUE, Named.RED, Bits.A, Bits.B, Bits.A | Bits.B, Color, int, len),
    *(
        Point(1, 2),
        Point(2, 1),
        Other(1, 2),
        Model(x=1, y=2),
        Model(x=2, y=1),
        Loose(x=1),
        Loose(x=1, y=2),
        Pair(1, 2),
        Point,
    ),
    *(
        Plain(x=1),
        Plain(x=2),
        Words(["a"]),
        HumanMessage("hi"),
        AIMessage("hi"),
        AIMessage("hi", id="1"),
        Path("a"),
    ),
    *(datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1), UUID(int=1), range(3), dspy.Example(a=1)),
]


@pytest.mark.parametrize(("one", "other"), EQUAL, ids=range(len(EQUAL)))
def test_equal_values_have_equal_keys(one: Any, other: Any) -> None:
    assert cache_key(one) == cache_key(other)
    assert cache_key({"item": [one, one]}) == cache_key({"item": [one, other]})


def test_different_values_have_different_keys() -> None:
    keys = [cache_key(value) for value in DIFFERENT]
    assert len(set(keys)) == len(keys)


IN_CHECKPOINTS: list[Any] = [
    *(
        None,
        True,
        1,
        1.0,
        "1",
        b"1",
        -0.0,
        [1, (2,)],
        {"a": (1, {"b": [2]})},
        {1, 2},
        Decimal(1),
        Path("a"),
        UUID(int=1),
    ),
    *(
        datetime(2024, 1, 1, tzinfo=UTC),
        np.arange(6).reshape(2, 3),
        HumanMessage("hi"),
        AIMessage(["hi", {"type": "x"}]),
    ),
]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda parts: (
        st.lists(parts, max_size=4) | st.dictionaries(st.text(max_size=3) | st.integers(), parts, max_size=4)
    ),
    max_leaves=12,
)


def rebuilt(value: Any, chance: random.Random) -> Any:
    """An equal value, whose dicts are in another order, whose lists may be tuples, and that shares no
    part."""
    if isinstance(value, dict):
        keys = chance.sample(list(value), len(value))
        return {rebuilt(key, chance): rebuilt(value[key], chance) for key in keys}
    if isinstance(value, list):
        return chance.choice([list, tuple])(rebuilt(part, chance) for part in value)
    return f" {value}"[1:] if isinstance(value, str) else value


def as_text(value: Any) -> Any:
    """A text that is the same for values with equal keys, and for no others."""
    if isinstance(value, dict):
        return f"{{{sorted(as_text(key) + ':' + as_text(part) for key, part in value.items())}}}"
    return f"[{[as_text(part) for part in value]}]" if isinstance(value, list) else repr(value)


@given(values, values, st.randoms(use_true_random=False))
def test_keys_are_those_of_the_values(one: Any, other: Any, chance: random.Random) -> None:
    assert cache_key(one) == cache_key(rebuilt(one, chance))
    assert (cache_key(one) == cache_key(other)) == (as_text(one) == as_text(other))


@pytest.mark.parametrize("value", IN_CHECKPOINTS, ids=range(len(IN_CHECKPOINTS)))
def test_a_value_from_a_checkpoint_has_the_same_key(value: Any) -> None:
    serde = JsonPlusSerializer()
    assert cache_key(serde.loads_typed(serde.dumps_typed({"item": (value, value)}))) == cache_key(
        {"item": (value, value)}
    )


def test_other_processes_have_the_same_keys() -> None:
    """Strings are hashed with another seed there, so sets have another order."""
    code = """
import dataclasses
from mahsm.edges._vmap.cache_key import cache_key

@dataclasses.dataclass
class Point:
    x: object

class Words(set): pass

class Plain:
    def __init__(self, parts): self.parts = parts

sets = [set("abcdefgh"), Point(set("xyzuvw")), Words("pqrst"), Plain({"set": set("ijklmn")})]
print(cache_key([sets, {key: 1 for key in set("abcdefgh")}]))
"""
    keys: set[str] = set()
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        keys.add(
            subprocess.run(
                [sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True
            ).stdout
        )
    assert len(keys) == 1


def test_values_that_contain_themselves_or_share_much() -> None:
    looped: list[Any] = []
    looped.append(looped)
    assert cache_key(looped) == cache_key(looped)
    shared: list[Any] = []
    for _ in range(100):
        shared = [shared, shared]
    assert cache_key(shared) == cache_key(shared)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("one", "other"), EQUAL[:6], ids=range(6))
def test_equal_items_are_called_once(cache: Any, one: Any, other: Any, mode: str) -> None:
    counted = Counted(result="done")
    for item in (one, other):
        assert run_edge(edge_of(counted, cache), [item], mode) == ["done"]
    assert len(counted.calls) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_comma_in_the_name_of_the_edge(cache: Any, mode: str) -> None:
    counted = Counted()
    for _ in range(2):
        assert run_edge(edge_of(counted, cache, name="a, b"), [1, 2], mode) == [1, 2]
    assert sorted(counted.calls) == [1, 2]


# Caches that fail.


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name == "mahsm.cache"]
    assert all(record.levelno == logging.WARNING for record in records)
    return [record.getMessage() for record in records]


@pytest.mark.parametrize("on_error", ["raise", "collect"])
@pytest.mark.parametrize("mode", MODES)
def test_an_item_that_cannot_be_a_key_is_called(
    cache: Any, mode: str, on_error: str, caplog: pytest.LogCaptureFixture
) -> None:
    counted = Counted(result="done")
    edge = edge_of(counted, cache, on_error=on_error)
    assert run_edge(edge, [1, threading.Lock(), 2, threading.Lock()], mode) == ["done"] * 4
    assert said(caplog) == [
        "edge: an item cannot be a key of the cache (TypeError). It is called without the cache; this is "
        "logged once in a run."
    ]
    assert run_edge(edge, [1, 2], mode) == ["done"] * 2
    assert len(counted.calls) == 4, "the others are kept"


class Unknown:
    """What LangGraph's serialiser refuses."""


@pytest.mark.parametrize("on_error", ["raise", "collect"])
@pytest.mark.parametrize("mode", MODES)
def test_an_update_that_cannot_be_kept_counts(
    cache: Any, mode: str, on_error: str, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def target(state: dict[str, Any]) -> Any:
        calls.append(state["item"])
        return Unknown() if state["item"] == 1 else state["item"]

    edge = edge_of(target, cache, on_error=on_error)
    for _ in range(2):
        ys = run_edge(edge, [0, 1, 2], mode)
        assert isinstance(ys.pop(1), Unknown)
        assert ys == [0, 2]
    assert sorted(calls) == [0, 1, 1, 2]
    line = (
        "edge: the cache cannot store an item's update (TypeError). The run goes on, and the update counts; "
    )
    assert said(caplog) == [line + "this is logged once in a run."] * 2


@pytest.fixture
def locked(tmp_path: Path) -> Any:
    """A cache in a database that somebody else has locked, and the number of times that it was tried."""
    tried: list[str] = []

    class Recorded(SqliteCache[Any]):
        def get(self, keys: Sequence[Any]) -> Any:
            tried.append("get")
            return super().get(keys)

        def set(self, mapping: Any) -> None:
            tried.append("set")
            super().set(mapping)

    path = str(tmp_path / "cache")
    cache = Recorded(path=path)
    cache._conn.execute("PRAGMA journal_mode=DELETE")  # readers are locked out, too
    cache._conn.execute("PRAGMA busy_timeout=20")
    other = sqlite3.connect(path, isolation_level=None)
    yield cache, other, tried
    other.close()
    cache._conn.close()


@pytest.mark.parametrize("on_error", ["raise", "collect"])
@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_locked_database_loses_nothing(
    locked: Any, mode: str, blocks: bool, on_error: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And it is asked once, not for each of the hundred tasks, since each would wait for it."""
    cache, other, tried = locked
    counted = Counted()
    edge = edge_of(counted if blocks else counted.later, cache, on_error=on_error, chunk_size=1)
    other.execute("BEGIN EXCLUSIVE")
    assert run_edge(edge, range(100), mode) == list(range(100))
    assert sorted(counted.calls) == list(range(100))
    assert sorted(tried) == ["get", "set"]
    assert said(caplog) == [
        "edge: the cache cannot be read (OperationalError). The run goes on without reading it; this is "
        "logged once in a run."
    ]
    other.execute("ROLLBACK")
    for _ in range(2):
        assert run_edge(edge, range(100), mode) == list(range(100))
    assert len(counted.calls) == 200, "the next run asks again"


@pytest.mark.parametrize("mode", MODES)
def test_a_database_that_can_be_read_and_not_written(
    locked: Any, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache, other, _ = locked
    counted = Counted()
    edge = edge_of(counted, cache)
    assert run_edge(edge, [1, 2], mode) == [1, 2]
    other.execute("BEGIN IMMEDIATE")
    assert run_edge(edge, [1, 2, 3, 4], mode) == [1, 2, 3, 4]
    assert sorted(counted.calls) == [1, 2, 3, 4]
    assert said(caplog) == [
        "edge: the cache cannot be written (OperationalError). The run goes on without writing it; this is "
        "logged once in a run."
    ]


class Refusing(InMemoryCache[Any]):
    """A cache over a network that is not there."""

    def get(self, keys: Sequence[Any]) -> Any:
        raise ConnectionRefusedError("redis://user:secret@host")

    set = get


@pytest.mark.parametrize("mode", MODES)
def test_a_connection_that_is_refused(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    counted = Counted()
    nowhere = redis.Redis(unix_socket_path="/nowhere/at-all", retry=Retry(NoBackoff(), 0))
    for cache in (Refusing(), RedisCache(nowhere)):
        assert run_edge(edge_of(counted, cache), [1, 2], mode) == [1, 2]
    assert len(counted.calls) == 4
    assert "the cache cannot be read (ConnectionRefusedError)" in said(caplog)[0]
    assert "secret" not in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_interrupts_of_a_cache_pass_through(error: type[BaseException]) -> None:
    class Interrupted(InMemoryCache[Any]):
        def get(self, keys: Sequence[Any]) -> Any:
            raise error

        set = get

    stored = Stored(Interrupted(), "edge", lambda item: item)
    for _ in range(2):
        for use in (lambda: stored.get(THREAD, {0: 1}), lambda: stored.put(THREAD, 1, 2)):
            with pytest.raises(error):
                run_blocking(use())
        for use_async in (lambda: stored.get(TASK, {0: 1}), lambda: stored.put(TASK, 1, 2)):
            with pytest.raises(error):
                await use_async()


@pytest.mark.parametrize("mode", MODES)
def test_a_result_that_fails_on_what_is_kept_fails_its_item(mode: str) -> None:
    cache, counted = InMemoryCache[Any](), Counted()
    assert run_edge(edge_of(counted, cache), [1, 2], mode) == [1, 2]
    ys = run_edge(edge_of(counted, cache, result=lambda x: x // (x - 1), on_error="collect"), [1, 2], mode)
    assert (ys[0]["type"], ys[1]) == ("ZeroDivisionError", 2)


@pytest.mark.parametrize("mode", MODES)
def test_an_item_without_a_state_fails_as_it_does_without_a_cache(
    mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    edge = edge_of(Counted(), InMemoryCache(), item_to_state=lambda x: {"item": 6 // x}, on_error="collect")
    ys = run_edge(edge, [0, 2], mode)
    assert (ys[0]["type"], ys[1]) == ("ZeroDivisionError", 3)
    assert said(caplog) == []


async def test_who_waits_for_the_first_access_goes_on_when_that_is_cancelled() -> None:
    begun = asyncio.Event()

    class Slow(InMemoryCache[Any]):
        async def aget(self, keys: Sequence[Any]) -> Any:
            if not begun.is_set():
                begun.set()
                await asyncio.Event().wait()
            return await super().aget(keys)

    stored = Stored(Slow(), "edge", lambda item: item)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(stored.get(TASK, {0: 1}))
        await begun.wait()
        second = group.create_task(stored.get(TASK, {0: 1}))
        await asyncio.sleep(0)
        assert not second.done()
        first.cancel()
    assert second.result() == {}
