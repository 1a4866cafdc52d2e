"""Functions made of functions: what they return, how they are called, and where they can stand."""

import asyncio
import copy
import inspect
import pickle
import threading
import time
from functools import partial
from operator import itemgetter
from typing import Any, TypedDict

import dspy
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from langgraph.errors import GraphInterrupt
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from mahsm import Branch, Retry, budget, cache, chain, ensemble, parallel, policy_router, retry, timeout, vmap
from mahsm.errors import EdgeError, MissingKeyError, TooManyHanging
from mahsm.operators import EnsembleOperator, Operator, op
from mahsm.policies._internal import forget_retry_budget
from mahsm.reducers import majority_vote
from mahsm.testing import FakeLM
from tests.helpers import MODES

NO_WAIT = Retry(attempts=3, base=0)
WRAPPERS: dict[str, Any] = {
    "chain": chain,
    "retry": retry,
    "retry()": retry(max_attempts=2),
    "retry(3)": retry(3),
    "timeout": partial(timeout, seconds=30),
    "timeout()": timeout(seconds=30),
    "timeout(30)": timeout(30),
    "cache": cache,
    "cache()": cache(ttl=60, max_size=10),
    "stacked": lambda f: cache(ttl=60)(retry(max_attempts=3)(timeout(30)(f))),
}


def area(width: int, height: int = 2, *, scale: int = 1) -> int:
    """Return an area."""
    return width * height * scale


async def area_async(width: int, height: int = 2, *, scale: int = 1) -> int:
    """Return an area."""
    await asyncio.sleep(0)
    return width * height * scale


def run(function: Any, mode: str, *args: Any, **kwargs: Any) -> Any:
    """Call a function as its mode does: blocking, or awaited."""
    if mode == "sync":
        return function(*args, **kwargs)
    return asyncio.run(function.acall(*args, **kwargs))


def flaky(failures: int, error: Exception | None = None) -> Any:
    calls: list[int] = []

    def function(x: int = 0) -> int:
        calls.append(x)
        if len(calls) <= failures:
            raise error or ConnectionError(f"reset {len(calls)}")
        return x + len(calls)

    function.calls = calls  # type: ignore[attr-defined]
    return function


# What all of them have in common.


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("mode", MODES)
@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 9))
def test_a_function_returns_what_it_returns_alone(mode: str, wrap: Any, x: int, y: int, z: int) -> None:
    wrapped = wrap(area)
    assert run(wrapped, mode, x, height=y) == area(x, height=y)
    assert run(wrapped, mode, x, y, scale=z) == area(x, y, scale=z)
    assert run(wrapped, mode, width=x) == area(x)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
async def test_an_async_function_is_awaited(wrap: Any) -> None:
    assert await wrap(area_async)(3, scale=2) == 12
    assert await wrap(area_async).acall(3, scale=2) == 12


@pytest.mark.parametrize("wrap", [*WRAPPERS.values(), ensemble], ids=[*WRAPPERS, "ensemble"])
async def test_langgraph_sees_that_a_function_is_async(wrap: Any) -> None:
    builder = StateGraph(dict)
    builder.add_node("n", chain(wrap(number_of_async), as_update)).add_edge(START, "n")
    assert (await builder.compile().ainvoke({"width": 3}))["area"] in (6, [6])
    made = wrap(area_async)
    for function in (made, copy.deepcopy(made), pickle.loads(pickle.dumps(made)), chain(area, made)):
        assert inspect.iscoroutinefunction(function.__call__)
    assert not inspect.iscoroutinefunction(wrap(area).__call__)
    assert copy.copy(made) == made


async def number_of_async(state: dict[str, int]) -> int:
    return await area_async(state["width"])


def as_update(area: Any) -> dict[str, Any]:
    return {"area": area}


@pytest.mark.parametrize("name", sorted(set(WRAPPERS) - {"chain"}))
@pytest.mark.parametrize("function", [area, area_async])
def test_it_looks_like_the_function(name: str, function: Any) -> None:
    wrapped = WRAPPERS[name](function)
    assert isinstance(wrapped, Operator)
    assert (wrapped.__name__, wrapped.__doc__) == (function.__name__, "Return an area.")
    assert inspect.signature(wrapped) == inspect.signature(function)
    assert inspect.unwrap(wrapped) is function


def test_a_chain_and_an_ensemble_say_what_they_call() -> None:
    made = chain(area, str), ensemble(area, max)
    assert [each.__name__ for each in made] == ["chain", "ensemble"]
    assert [each.__doc__ for each in made] == ["Call area, then str.", "Call area, max concurrently."]
    assert inspect.signature(made[0]).parameters.keys() == {"width", "height", "scale"}
    assert "function made of functions" in (type(chain(area)).__mro__[1].__doc__ or "")


def needs_two(item: int, y: int, z: int = 0) -> dict[str, int]:
    return {"sum": item + y + z}


async def needs_two_async(item: int, y: int, z: int = 0) -> dict[str, int]:
    return {"sum": item + y + z}


@pytest.mark.parametrize("wrap", [*WRAPPERS.values(), ensemble], ids=[*WRAPPERS, "ensemble"])
@pytest.mark.parametrize("mode", MODES)
def test_several_parameters_may_be_fields_of_one_input(mode: str, wrap: Any) -> None:
    found = run(wrap(needs_two), mode, {"item": 1, "y": 2, "other": 3})
    assert found in ({"sum": 3}, [{"sum": 3}])


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_methods_are_decorated_as_functions_are(wrap: Any) -> None:
    class Client:
        def __init__(self, base: int) -> None:
            self.base = base

        @wrap
        def get(self, x: int) -> int:
            return self.base + x

    assert (Client(1).get(2), Client(10).get(x=2)) == (3, 12)


def item_times_two(item: int) -> int:
    return 2 * item


async def item_times_two_async(item: int) -> int:
    return 2 * item


def from_state(state: dict[str, Any]) -> int:
    return 2 * state["item"]


TARGETS: dict[str, Any] = {
    "an item": item_times_two,
    "an item, async": item_times_two_async,
    "the state": from_state,
    "an operator": op(lambda state: 2 * state["item"]),
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("mode", MODES)
def test_they_are_targets_as_the_function_is(mode: str, wrap: Any, target: Any) -> None:
    edges = [vmap(each, batch_key="xs", out_key="ys") for each in (target, wrap(target))]
    state = {"xs": [1, 2, 3]}
    plain, wrapped = (
        edge.invoke(state) if mode == "sync" else asyncio.run(edge.ainvoke(state)) for edge in edges
    )
    assert plain == wrapped == {"ys": [2, 4, 6]}


@pytest.mark.parametrize("function", [needs_two, needs_two_async, op(needs_two)])
@pytest.mark.parametrize("mode", MODES)
def test_parameters_are_keys_of_the_state(mode: str, function: Any) -> None:
    edge = vmap(cache(retry(function)), batch_key="xs", out_key="ys", result="sum")
    state = {"xs": [1, 2], "y": 10}
    found = edge.invoke(state) if mode == "sync" else asyncio.run(edge.ainvoke(state))
    assert found == {"ys": [11, 12]}


class State(TypedDict, total=False):
    x: int
    y: int
    sum: int
    route: dict[str, Any]
    done: str


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("mode", MODES)
def test_they_are_nodes_and_branches(mode: str, wrap: Any) -> None:
    def double(state: State) -> State:
        return {"x": 2 * state["x"]}

    def add(state: State) -> State:
        return {"sum": state["x"] + state["y"]}

    async def done(state: State) -> State:
        return {"done": f"{state['x']}"}

    graph = StateGraph(State)
    graph.add_node("double", wrap(double).as_node())
    graph.add_node("both", parallel([Branch(wrap(add), name="add"), Branch(wrap(done), name="done")]))
    graph.add_edge(START, "double")
    graph.add_edge("double", "both")
    graph.add_edge("both", END)
    compiled = graph.compile()
    found = (
        compiled.invoke({"x": 1, "y": 3})
        if mode == "sync"
        else asyncio.run(compiled.ainvoke({"x": 1, "y": 3}))
    )
    assert found == {"x": 2, "y": 3, "sum": 5, "done": "2"}


def test_composed_operators_are_parts_of_operators() -> None:
    both = EnsembleOperator([op(retry(area)), cache(area)])
    assert both(3) == [6, 6]
    assert op(retry(area)) is not op(retry(area))


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("mode", MODES)
def test_dspy_modules_are_called_by_their_fields(mode: str, wrap: Any) -> None:
    module = dspy.Predict("item -> answer")
    with dspy.context(lm=FakeLM({"answer": "Paris"})):
        assert run(wrap(module), mode, item="Where?").answer == "Paris"
        assert run(wrap(module), mode, {"item": "Where?", "other": 1}).answer == "Paris"
        edge = vmap(wrap(module), batch_key="qs", out_key="ys", result="answer")
        state = {"qs": ["a", "b"]}
        found = edge.invoke(state) if mode == "sync" else asyncio.run(edge.ainvoke(state))
    assert found == {"ys": ["Paris", "Paris"]}


def test_arrays_of_modules_stay_parameters() -> None:
    linear = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    model = chain(retry(linear), jnp.sum)
    grads = eqx.filter_grad(lambda model: model(jnp.ones(2)))(model)
    assert [leaf.shape for leaf in jax.tree.leaves(grads)] == [(1, 2), (1,)]
    cached = cache(linear)
    assert cached(jnp.ones(2)) is cached(np.ones(2, np.float32)) or cached.info().misses == 2
    scaled = eqx.tree_at(lambda each: each.function.weight, cached, jnp.zeros((1, 2)))
    assert scaled(jnp.ones(2)) == linear.bias
    assert jax.jit(lambda x: timeout(cached, 30)(x))(jnp.ones(2)) == pytest.approx(linear(jnp.ones(2)))


def test_copies_share_what_belongs_to_the_function() -> None:
    cached = cache(area)
    cached(1)
    twin, pickled = copy.deepcopy(cached), pickle.loads(pickle.dumps(cached))
    assert (twin(1), pickled(1)) == (2, 2)
    assert (cached.info().hits, pickled.info().hits, pickled.info().misses) == (1, 0, 1)
    assert pickle.loads(pickle.dumps(timeout(retry(area), 5)))(2) == 4


@cache
@retry(max_attempts=2)
def doubled(number: int) -> int:
    return 2 * number


class Doubling:
    @timeout(seconds=30)
    def double(self, number: int) -> int:
        return 2 * number


def test_a_decorated_function_is_pickled_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(doubled)) is doubled
    assert pickle.loads(pickle.dumps(Doubling().double))(2) == 4
    assert pickle.loads(pickle.dumps(chain(doubled, str)))(2) == "4"
    assert copy.deepcopy(doubled) is doubled


class NotMade:
    def forward(self) -> None: ...


def generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3.5, "got 3.5; expected a function, an operator or a DSPy module"),
        (NotMade, "got the class .*NotMade.*; expected an instance of it"),
        (generator, "generator is a generator function; expected a function that returns a value"),
    ],
)
@pytest.mark.parametrize(
    "make", [chain, ensemble, cache, partial(chain, area), partial(retry, policy=NO_WAIT)]
)
def test_what_cannot_be_called_is_refused(make: Any, wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make(wrong)


def test_a_graph_is_refused_with_the_next_step() -> None:
    graph = StateGraph(State).add_node("a", lambda state: {}).set_entry_point("a").compile()
    with pytest.raises(TypeError, match=r"Pass lambda state: graph.invoke\(state\)"):
        chain(graph)


# chain


@given(st.lists(st.sampled_from([str.strip, str.upper, str.title, str.swapcase]), min_size=1), st.text())
def test_a_chain_is_a_loop(functions: list[Any], text: str) -> None:
    expected = text
    for function in functions:
        expected = function(expected)
    assert chain(*functions)(text) == expected
    assert asyncio.run(chain(*map(op, functions)).acall(text)) == expected


async def test_a_chain_with_an_async_function_is_async() -> None:
    made = chain(needs_two, itemgetter("sum"), area_async, str)
    assert await made(1, 2) == "6"
    assert await ensemble(made, needs_two_async, reduce=len)(1, y=2) == 2


def test_a_chain_hands_fields_on() -> None:
    assert chain(lambda x: {"item": x, "y": 1}, needs_two, needs_two_default)(2) == 3


def needs_two_default(found: dict[str, int], key: str = "sum") -> int:
    return found[key]


def test_an_error_in_a_chain_comes_out_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        chain(area, lambda x: x / 0)(1)


# ensemble


@pytest.mark.parametrize("mode", MODES)
def test_an_ensemble_runs_all_at_the_same_time(mode: str) -> None:
    barrier = threading.Barrier(8)

    def meet(x: int) -> int:
        barrier.wait(30)
        return x

    assert run(ensemble(*[meet] * 8, reduce=sum), mode, 2) == 16


@pytest.mark.parametrize("mode", MODES)
def test_an_ensemble_can_be_bounded(mode: str) -> None:
    inside, most = 0, 0
    lock = threading.Lock()

    def member(x: int) -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.002)
        with lock:
            inside -= 1
        return x

    assert run(ensemble(*[member] * 6, max_concurrency=2), mode, 1) == [1] * 6
    assert most <= 2


@pytest.mark.parametrize("mode", MODES)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 0.5, 1.0, 2.0])), min_size=1, max_size=6)
)
def test_the_heaviest_value_wins_and_of_equals_the_first(mode: str, votes: list[tuple[str, float]]) -> None:
    members = [partial(lambda value, _: value, value) for value, _ in votes]
    totals: dict[str, float] = {}
    for value, weight in votes:
        totals[value] = totals.get(value, 0) + weight
    best = max(totals, key=lambda value: totals[value])
    assert run(ensemble(*members, weights=[weight for _, weight in votes]), mode, 0) == best


async def test_reducers_of_an_ensemble() -> None:
    async def longest(results: list[str]) -> str:
        return max(results, key=len)

    members = [lambda _: "a", lambda _: "bb", lambda _: "a"]
    assert ensemble(*members, reduce=majority_vote)(0) == "a"
    assert await ensemble(*members, reduce=majority_vote).acall(0) == "a"
    assert await ensemble(*members, reduce=longest)(0) == "bb"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1]}, r"weights=\[1\]; expected 2 numbers >= 0, one for each function"),
        ({"weights": [1, -1]}, r"weights=\[1, -1\]; expected 2 numbers"),
        ({"weights": 3}, "weights=3; expected 2 numbers"),
        ({"weights": [1, 1], "reduce": len}, "which vote already; expected one of the two"),
        ({"max_concurrency": 0}, "max_concurrency=0; expected an integer, at least 1, or None"),
        ({"reduce": "majority"}, "reduce='majority'; expected a function of the list of results"),
    ],
)
def test_invalid_options_of_an_ensemble(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        ensemble(area, max, **options)


# retry


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("failures", [0, 1, 2, 3])
def test_a_function_is_tried_so_often(mode: str, failures: int) -> None:
    function = flaky(failures)
    wrapped = retry(function, policy=NO_WAIT)
    if failures < 3:
        assert run(wrapped, mode, 5) == 5 + failures + 1
    else:
        with pytest.raises(ConnectionError, match="reset 3"):
            run(wrapped, mode, 5)
    assert len(function.calls) == min(failures + 1, 3)


async def test_an_async_function_is_tried_again() -> None:
    function = flaky(2)

    async def call(x: int) -> int:
        return function(x)

    assert await retry(call, policy=NO_WAIT)(5) == 8


@pytest.mark.parametrize(
    ("error", "on", "calls"),
    [
        (ValueError("no"), None, 1),
        (ValueError("no"), ValueError, 3),
        (ValueError("no"), lambda error: "no" in str(error), 3),
        (GraphInterrupt(()), Exception, 1),
    ],
)
def test_only_some_errors_are_worth_it(error: Exception, on: Any, calls: int) -> None:
    function = flaky(9, error)
    with pytest.raises(type(error)):
        retry(function, policy=Retry(attempts=3, base=0, on=on))()
    assert len(function.calls) == calls


@pytest.mark.parametrize("mode", MODES)
def test_retry_after_is_waited_for(mode: str) -> None:
    error = ConnectionError("slow down")
    error.retry_after = 0.05  # type: ignore[attr-defined]
    function = flaky(1, error)
    began = time.monotonic()
    assert run(retry(function, policy=NO_WAIT), mode, 1) == 3
    assert time.monotonic() - began >= 0.05


def test_a_wait_that_is_too_long_is_not_begun() -> None:
    error = ConnectionError("slow down")
    error.retry_after = 1e6  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError) as found:
        retry(flaky(1, error), policy=NO_WAIT)()
    assert "retry_after_cap" in found.value.__notes__[0]
    late = Retry(attempts=3, base=50, jitter=False, cap=50, timeout=1)
    with pytest.raises(ConnectionError, match="reset 1"):
        retry(flaky(1), policy=late)()


def test_the_retry_budget_of_a_provider_is_shared() -> None:
    forget_retry_budget("tests-compose")
    policy, calls = Retry(attempts=61, base=0, share=0), []

    def down() -> None:
        calls.append(1)
        raise ConnectionError("down")

    for _ in range(3):
        with pytest.raises(ConnectionError) as found:
            retry(down, policy=policy, provider="tests-compose")()
    assert len(calls) == 3 + 100
    assert "too many calls fail" in found.value.__notes__[0]
    forget_retry_budget("tests-compose")


def test_nothing_is_retried_when_a_budget_is_spent() -> None:
    function = flaky(1)
    edge = vmap(lambda state: state["item"], batch_key="xs", out_key="ys", on_error="drop")
    with budget(calls=1):
        edge.invoke({"xs": [1, 2]})
        with pytest.raises(ConnectionError):
            retry(function, policy=NO_WAIT)()
    assert len(function.calls) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_attempts": 0}, EdgeError, "attempts=0; expected an integer >= 1"),
        ({"policy": NO_WAIT, "max_attempts": 2}, TypeError, "expected either a policy"),
        ({"policy": 3}, EdgeError, r"retry=3; expected Retry\(attempts=3\)"),
    ],
)
def test_invalid_options_of_retry(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        retry(area, **options)


def test_a_retry_of_a_module_uses_its_provider() -> None:
    module = dspy.Predict("question -> answer")
    wrapped = retry(module)
    with dspy.context(lm=FakeLM({"answer": "Paris"})):
        assert wrapped(question="?").answer == "Paris"


# timeout


@pytest.mark.parametrize("mode", MODES)
def test_a_blocking_function_is_left_behind(mode: str) -> None:
    go_on, ended = threading.Event(), threading.Event()

    def hang(x: int) -> None:
        go_on.wait(30)
        ended.set()

    with pytest.raises(TimeoutError, match=r"^hang: took longer than 0.01 s$"):
        run(timeout(hang, 0.01), mode, 1)
    assert not ended.is_set()
    go_on.set()
    assert ended.wait(30)


async def test_an_async_function_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def hang() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError, match=r"^hang: took longer than 0.01 s$"):
        await timeout(hang, 0.01)()
    assert cancelled.is_set()


@pytest.mark.parametrize("mode", MODES)
def test_a_timeout_of_the_function_is_its_own(mode: str) -> None:
    with pytest.raises(TimeoutError, match=r"^own$"):
        run(timeout(flaky(1, TimeoutError("own")), 30), mode, 1)


def test_few_calls_may_hang() -> None:
    go_on = threading.Event()
    hanging = timeout(lambda: go_on.wait(60), 1e-6)
    hanging.hanging.left.most, hanging.hanging.left._room = 2, 1  # type: ignore[attr-defined]
    try:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                hanging()
        with pytest.raises(TooManyHanging, match=r"lambda.*: 2 blocking calls were given up and hang"):
            hanging()
    finally:
        go_on.set()


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "3", None])
def test_invalid_seconds(seconds: Any) -> None:
    with pytest.raises(ValueError, match=r"timeout: seconds=.*; expected a number > 0"):
        timeout(area, seconds=seconds)


# policy_router


LABELS = ["search", "answer", "stop"]


def test_greedy_takes_the_highest_and_of_equals_the_first() -> None:
    assert policy_router(lambda _: [1.0, 3.0, 3.0], LABELS)({}) == "answer"
    assert policy_router(lambda _: {"stop": 1, "answer": 0, "search": 0}, LABELS)({}) == "stop"
    assert policy_router(lambda _: np.array([-np.inf, 0, -1]), LABELS)({}) == "answer"


@given(st.lists(st.floats(-20, 20), min_size=3, max_size=3))
def test_scores_are_softmaxed_and_probabilities_are_not(scores: list[float]) -> None:
    # Scores that are >= 0 and add up to 1 are probabilities already.
    assume(min(scores) < 0 or abs(sum(scores) - 1) > 1e-3)
    powers = np.exp(np.array(scores) - max(scores))
    expected = powers / powers.sum()
    for found in (scores, expected):
        node = policy_router(lambda _, found=found: found, LABELS, write_to="route")
        assert node({}).update["route"]["probability"] == pytest.approx(expected.max())


def test_sampling_draws_from_the_probabilities() -> None:
    route = policy_router(lambda _: [0.7, 0.0, 0.3], LABELS, "sample", rng=0)
    drawn = [route({}) for _ in range(4000)]
    assert 0.66 < drawn.count("search") / 4000 < 0.74
    assert "answer" not in drawn
    again = policy_router(lambda _: [0.7, 0.0, 0.3], LABELS, "sample", rng=np.random.default_rng(0))
    assert [again({}) for _ in range(100)] == drawn[:100]


@pytest.mark.parametrize("write_to", [None, "route"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy", ["function", "async", "module"])
def test_a_router_in_a_graph(policy: str, mode: str, write_to: str | None) -> None:
    async def prefers_b(state: Any) -> list[float]:
        return [0.0, 1.0]

    linear = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    linear = eqx.tree_at(lambda each: (each.weight, each.bias), linear, (jnp.eye(2), jnp.zeros(2)))
    made = {
        "function": policy_router(lambda state: [0.0, 1.0], ["a", "b"], write_to=write_to),  # type: ignore[call-overload]
        "async": policy_router(prefers_b, ["a", "b"], write_to=write_to),  # type: ignore[call-overload]
        "module": policy_router(linear, ["a", "b"], key="features", write_to=write_to),  # type: ignore[call-overload]
    }[policy]

    class Routed(TypedDict, total=False):
        features: list[float]
        route: dict[str, Any]
        done: str

    graph = StateGraph(Routed)
    for name in ("a", "b"):
        graph.add_node(name, lambda _, name=name: {"done": name})
        graph.add_edge(name, END)
    if write_to is None:
        graph.add_conditional_edges(START, made)
    else:
        graph.add_node("router", made)
        graph.add_edge(START, "router")
    compiled = graph.compile()
    state = {"features": [0.0, 2.0]}
    if policy == "async" and mode == "sync":
        return
    found = compiled.invoke(state) if mode == "sync" else asyncio.run(compiled.ainvoke(state))
    assert found["done"] == "b"
    if write_to:
        assert found["route"] == {
            "choice": "b",
            "probability": pytest.approx(0.881, abs=1e-3) if policy == "module" else 1.0,
        }
    drawn = {(edge.source, edge.target) for edge in compiled.get_graph().edges}
    assert {("router" if write_to else START, name) for name in ("a", "b")} <= drawn


@pytest.mark.parametrize("path_map", [None, ["a", "b"]])
@pytest.mark.parametrize("mode", MODES)
def test_a_router_that_writes_is_refused_by_a_conditional_edge(mode: str, path_map: Any) -> None:
    graph = StateGraph(dict)
    for name in ("a", "b"):
        graph.add_node(name, lambda _: {})
    graph.add_conditional_edges(
        START, policy_router(lambda _: [0, 1], ["a", "b"], write_to="route"), path_map
    )
    compiled = graph.compile()
    with pytest.raises(EdgeError, match=r"with write_to='route' it is a node.*expected add_node"):
        _ = compiled.invoke({}) if mode == "sync" else asyncio.run(compiled.ainvoke({}))


def test_what_a_router_returns_as_a_node_is_a_command() -> None:
    command = policy_router(lambda _: [0, 1], ["a", "b"], write_to="route")({})
    made = Command(goto="b", update={"route": {"choice": "b", "probability": 1.0}})
    assert command == made == copy.deepcopy(command) == pickle.loads(pickle.dumps(command))
    assert command != Command(goto="a")
    assert command != 1


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((LABELS, "best"), {}, "strategy='best'; expected 'greedy' or 'sample'"),
        (("search",), {}, "labels='search'; expected a list of the names of different nodes"),
        ((["a", "a"],), {}, "labels=.*; expected a list"),
        (([],), {}, r"labels=\[\]; expected a list"),
        ((LABELS,), {"rng": 0}, "rng=0 with strategy='greedy', which draws nothing"),
        ((LABELS, "sample"), {"rng": "0"}, "rng='0'; expected a NumPy generator, or a seed >= 0"),
        ((LABELS,), {"key": 3}, "key=3; expected a state key"),
        ((LABELS,), {"write_to": ""}, "write_to=''; expected a state key"),
    ],
)
def test_invalid_routers(arguments: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        policy_router(lambda _: [1, 0, 0], *arguments, **options)


@pytest.mark.parametrize(
    "found", [[1.0], "yes", None, [float("nan"), 0, 0], [np.inf, 0, 0], {"a": 1}, [-np.inf] * 3]
)
def test_policies_that_return_something_else(found: Any) -> None:
    with pytest.raises(EdgeError, match="expected 3 numbers, one for each of 'search', 'answer', 'stop'"):
        policy_router(lambda _: found, LABELS)({})


def test_a_key_that_is_missing() -> None:
    with pytest.raises(MissingKeyError, match="state has no key 'features'"):
        policy_router(lambda _: [1, 0, 0], LABELS, key="features")({})


class Async:
    async def __call__(self, x: int) -> int:
        return x + 1


async def test_other_callables() -> None:
    assert await retry(Async())(1) == 2
    assert await chain(partial(area_async, height=3), str)(2) == "6"
    # Not async by its looks: its result is waited for.
    assert await asyncio.to_thread(retry(lambda x: area_async(x)), 2) == 4
    assert await retry(lambda x: area_async(x)).acall(2) == 4


def test_a_builtin_without_a_signature_is_a_target() -> None:
    assert vmap(retry(dict), batch_key="xs", out_key="ys", result="item").invoke({"xs": [1]}) == {"ys": [1]}


def test_modules_of_dspy_are_chained_by_their_fields() -> None:
    import dspy

    from mahsm.testing import FakeLM

    lm = FakeLM([{"outline": "a, b"}, {"essay": "A. B."}, {"answer": "x", "critique": "y"}])
    with dspy.context(lm=lm):
        essay = chain(dspy.Predict("topic -> outline"), dspy.Predict("outline -> essay"))(topic="tea").essay
        both = chain(dspy.Predict("q -> answer, critique"), lambda answer, critique: answer + critique)(q="?")
    assert (essay, both) == ("A. B.", "xy")


async def test_a_composed_async_function_reduces_an_ensemble() -> None:
    @retry(max_attempts=2)
    async def total(results: list[int]) -> int:
        await asyncio.sleep(0)
        return sum(results)

    both = ensemble(abs, int, reduce=total)
    assert both.is_async
    assert await both(-2) == 0


async def test_a_composed_async_method_is_a_node() -> None:
    class Adder:
        amount = 2

        @retry(max_attempts=2)
        async def add(self, state: dict[str, int]) -> dict[str, int]:
            """Add."""
            await asyncio.sleep(0)
            return {"y": state["x"] + self.amount}

    added = Adder().add
    assert (added.__name__, added.__doc__, list(inspect.signature(added).parameters)) == (
        "add",
        "Add.",
        ["state"],
    )
    graph = StateGraph(dict)
    graph.add_node("add", added)
    graph.add_edge(START, "add")
    assert await graph.compile().ainvoke({"x": 1}) == {"y": 3}
    assert (await vmap(added, batch_key="xs", out_key="ys").ainvoke({"x": 1, "xs": [0]}))["ys"] == [{"y": 3}]
