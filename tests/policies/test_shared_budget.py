"""A budget that processes share, seen from one of them."""

import copy
import pickle
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import dspy
import numpy as np
import pytest
import redis
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from mahsm import Budget, RateLimit, budget, dspy_node, is_item_error, limits, vmap, xcs
from mahsm._waiting import THREAD, run_blocking
from mahsm.errors import BudgetExceeded, EdgeError
from mahsm.policies._account import account_of
from mahsm.policies._internal import begin_attempt, lease_budgets, release
from mahsm.testing import FakeLM, Reply
from tests.helpers import MODES, run_edge


class Shared:
    """A budget of one name, and what Redis says of it."""

    def __init__(self, socket: str, name: str) -> None:
        self.url = f"unix://{socket}"
        self.name = name
        self.key = f"mahsm:budget:{{{name}}}"
        self.client = redis.Redis(unix_socket_path=socket, decode_responses=True)

    def budget(self, **bounds: Any) -> Budget:
        return Budget(shared=self.url, name=self.name, **bounds)

    def elsewhere(self, **spent: float) -> None:
        """Another process spends something."""
        for field, value in spent.items():
            self.client.hincrbyfloat(self.key, field, value)

    def spent(self) -> dict[str, float]:
        account_of(self.url, self.url, self.name).flush(60)
        return {field: float(self.client.hget(self.key, field) or 0) for field in ("usd", "tokens", "calls")}


@pytest.fixture
def shared(redis_server: str, name: str) -> Iterator[Shared]:
    found = Shared(redis_server, f"budget of {name}")
    yield found
    found.client.close()


def call(state: Any) -> Any:
    limits.report(input_tokens=70, output_tokens=30, usd=0.25)
    return state["item"]


def edge_of(target: Any = call, **options: Any) -> Any:
    given = {"batch_key": "xs", "out_key": "ys", "name": "edge", "on_error": "drop"}
    # Items in tasks of their own would begin in the order in which their threads do.
    in_order = {"max_concurrency": 1, "chunk_size": 64}
    return vmap(target, **{**given, **in_order, **options})


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"usd": 1, "shared": "redis://localhost"}, "has no name; processes with the same name"),
        ({"usd": 1, "name": "nightly"}, "name='nightly' without shared="),
        ({"usd": 1, "shared": "redis://localhost", "name": ""}, "name=''; expected a string"),
        ({"usd": 1, "shared": "redis://localhost", "name": 7}, "name=7; expected a string"),
        ({"seconds": 1, "shared": "redis://localhost", "name": "x"}, "nothing to share"),
        ({"usd": 1, "shared": "http://localhost", "name": "x"}, "has the scheme 'http'"),
        ({"usd": 1, "shared": 7, "name": "x"}, r"Budget\(shared=...\): 7; expected a URL"),
    ],
)
def test_budgets_that_cannot_be(arguments: Any, why: str) -> None:
    with pytest.raises(EdgeError, match=why):
        Budget(**arguments)


def test_a_budget_does_not_show_its_password() -> None:
    assert "s3cret" not in repr(Budget(usd=1, shared="redis://:s3cretWord@localhost", name="x"))


def test_a_pickled_budget_has_no_password() -> None:
    given = Budget(usd=1, shared="redis://localhost", name="x")
    assert pickle.loads(pickle.dumps(given)) == given
    for url in ("redis://:s3cretWord@localhost", "redis://localhost?p%61ssword=s3cretWord"):
        secret = Budget(usd=1, shared=url, name="x")
        assert copy.deepcopy([secret]) == [secret]
        with pytest.raises(EdgeError, match="the budget 'x' cannot be pickled: its URL may hold a password"):
            pickle.dumps(secret)


def test_a_target_that_holds_a_password_does_not_cross(shared: Shared) -> None:
    secret = Budget(usd=1, shared="redis://:s3cretWord@localhost", name="x")
    with pytest.raises(EdgeError, match="its URL may hold a password"):
        edge_of(lambda state: secret.usd, executor="process")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("bounds", "made"), [({"calls": 3}, 3), ({"tokens": 250}, 3), ({"usd": 0.75}, 3), ({"calls": 2.5}, 3)]
)
def test_runs_spend_it_together(shared: Shared, mode: str, bounds: Any, made: int) -> None:
    edge = edge_of(budget=shared.budget(**bounds))
    assert run_edge(edge, [1, 2], mode) == [1, 2]
    assert run_edge(edge, [3, 4], mode) == [3, 4][: made - 2]
    assert run_edge(edge, [5], mode) == []
    assert shared.spent() == {"usd": 0.25 * made, "tokens": 100 * made, "calls": made}


def test_bounds_of_other_types(shared: Shared) -> None:
    edge = edge_of(budget=shared.budget(usd=np.float64(0.5), tokens=Fraction(1000)))
    assert edge.invoke({"xs": [1, 2, 3, 4]})["ys"] == [1, 2]
    # Nobody else has told this one: Redis refuses.
    assert edge_of(budget=shared.budget(usd=np.float64(0.5))).invoke({"xs": [1]})["ys"] == []


def test_the_error_says_whose_budget_it_is(shared: Shared) -> None:
    edge = edge_of(budget=shared.budget(usd=1), on_error="raise")
    shared.elsewhere(usd=2.5)
    with pytest.raises(BudgetExceeded, match=f"edge: 2.5 of 1 USD of the shared budget '{shared.name}' are"):
        edge.invoke({"xs": [1]})


@pytest.mark.parametrize("spent", [{"usd": 9.0}, {"tokens": 9000.0}, {"calls": 90.0}])
def test_what_others_spend_ends_a_run(shared: Shared, spent: dict[str, float]) -> None:
    def others_too(state: Any) -> Any:
        if state["item"] == 2:
            shared.elsewhere(**spent)
        return call(state)

    edge = edge_of(others_too, budget=shared.budget(usd=5, tokens=5000, calls=50))
    assert edge.invoke({"xs": list(range(20))})["ys"] == [0, 1, 2]


def test_calls_are_exact_with_many_at_once(shared: Shared) -> None:
    edge = edge_of(budget=shared.budget(calls=40), max_concurrency=16)
    results: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: results.append(edge.invoke({"xs": list(range(30))})["ys"]))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, results)) == 40
    assert shared.spent()["calls"] == 40


def test_a_call_that_is_not_made_is_given_back(shared: Shared, name: str) -> None:
    limit = RateLimit(name, rps=1e-6, burst=2)
    edge = edge_of(budget=shared.budget(calls=100), rate_limit=limit, max_concurrency=8, deadline=0.2)
    assert len(edge.invoke({"xs": list(range(8))})["ys"]) == 2
    assert shared.spent()["calls"] == 2


def test_an_attempt_gives_back_no_call_that_another_is_about_to_make(shared: Shared) -> None:
    with budget(calls=100, shared=shared.url, name=shared.name):
        first, second = (run_blocking(lease_budgets(THREAD)) for _ in range(2))
        begin_attempt(second)
        release(second)
        assert shared.spent()["calls"] == 2
        release(first)
        assert shared.spent()["calls"] == 1


def test_each_process_keeps_to_its_own_bounds(shared: Shared) -> None:
    assert edge_of(budget=shared.budget(calls=1)).invoke({"xs": [1, 2]})["ys"] == [1]
    assert edge_of(budget=shared.budget(calls=3)).invoke({"xs": [1, 2, 3]})["ys"] == [1, 2]


def test_another_name_begins_anew(shared: Shared, redis_server: str) -> None:
    assert edge_of(budget=shared.budget(calls=1)).invoke({"xs": [1, 2]})["ys"] == [1]
    other = Shared(redis_server, f"{shared.name}, again")
    assert edge_of(budget=other.budget(calls=1)).invoke({"xs": [1, 2]})["ys"] == [1]
    other.client.close()


def test_a_block_says_what_it_has_spent_itself(shared: Shared) -> None:
    shared.elsewhere(usd=1)
    with budget(usd=1.5, shared=shared.url, name=shared.name) as spent:
        assert edge_of().invoke({"xs": [1, 2, 3]})["ys"] == [1, 2]
    assert (spent.usd, spent.calls, spent.spent().usd) == (0.5, 2, 1.5)
    assert "1.5 of 1.5 USD of the shared budget" in str(spent.exceeded)


def test_edges_inside_of_edges(shared: Shared) -> None:
    inner = edge_of(batch_key="inner", out_key="done", item_to_state=lambda item: {"item": item})

    def target(state: Any) -> Any:
        return inner.invoke({"inner": [1, 2]})["done"]

    outer = edge_of(target, budget=shared.budget(calls=50), chunk_size=None)
    assert outer.invoke({"xs": [1, 2]})["ys"] == [[1, 2], [1, 2]]
    # The first call of an attempt is the one that was counted when it began.
    assert shared.spent()["calls"] == 4


def test_a_call_counts_once_in_budgets_of_the_same_name(shared: Shared) -> None:
    edge = edge_of(budget=shared.budget(calls=4, usd=9))
    with budget(calls=5, shared=shared.url, name=shared.name) as spent:
        assert edge.invoke({"xs": [1, 2, 3, 4, 5, 6]})["ys"] == [1, 2, 3, 4]
        assert edge_of().invoke({"xs": [1, 2, 3]})["ys"] == [1]
    assert (spent.calls, spent.usd) == (5, 1.25)
    assert shared.spent() == {"usd": 1.25, "tokens": 500, "calls": 5}


@pytest.mark.parametrize("width", [1, 8])
def test_edges_inside_of_edges_with_the_same_budget(shared: Shared, width: int) -> None:
    same = shared.budget(calls=10)
    inner = edge_of(
        batch_key="inner",
        out_key="done",
        item_to_state=lambda item: {"item": item},
        budget=same,
        max_concurrency=4,
    )
    builder = StateGraph(dict)
    builder.add_node("inner", lambda state: {"done": inner.invoke({"inner": [1, 2, 3]})["done"]})
    builder.add_edge(START, "inner")
    builder.add_edge("inner", END)
    outer = edge_of(builder.compile(), budget=same, result="done", max_concurrency=width, chunk_size=None)
    assert sum(map(len, outer.invoke({"xs": [1, 2, 3, 4, 5]})["ys"])) == 10
    assert shared.spent()["calls"] == 10


def test_steps_of_a_function(shared: Shared) -> None:
    @xcs.step
    def step(number: int) -> int:
        return call({"item": number})

    @xcs.jit(budget=shared.budget(calls=2))
    def program() -> list[int]:
        return [step(1) + 0, step(2) + 0]

    assert program() == [1, 2]
    with pytest.raises(BudgetExceeded, match="of the shared budget"):
        program()


class Question(TypedDict, total=False):
    question: str
    answer: str


@pytest.mark.parametrize("mode", MODES)
async def test_a_node_asks_before_it_calls(shared: Shared, mode: str) -> None:
    builder = StateGraph(Question)
    builder.add_node("ask", dspy_node(dspy.Predict("question -> answer")))
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    graph = builder.compile()

    async def run() -> Any:
        given: Question = {"question": "a?"}
        return await graph.ainvoke(given) if mode == "async" else graph.invoke(given)

    lm = FakeLM(Reply({"answer": "yes"}, usage=(3, 2)))
    with dspy.context(lm=lm), budget(tokens=8, shared=shared.url, name=shared.name):
        assert (await run())["answer"] == "yes"
        shared.elsewhere(tokens=90)
        with pytest.raises(BudgetExceeded, match="95 of 8 tokens of the shared budget"):
            await run()


def test_an_account_that_redis_has_lost_goes_on(shared: Shared) -> None:
    edge = edge_of(budget=shared.budget(calls=3))
    assert edge.invoke({"xs": [1, 2]})["ys"] == [1, 2]
    before = shared.spent()
    shared.client.delete(shared.key)
    assert edge.invoke({"xs": [3, 4]})["ys"] == [3]
    assert shared.spent()["tokens"] == before["tokens"] + 100


def test_an_account_of_which_redis_has_lost_the_last_moments_goes_on(shared: Shared) -> None:
    edge = edge_of(budget=shared.budget(calls=3))
    edge.invoke({"xs": [1]})
    shared.spent()
    before = shared.client.hgetall(shared.key)
    edge.invoke({"xs": [2]})
    shared.spent()
    shared.client.hset(shared.key, mapping=before)
    assert edge.invoke({"xs": [3, 4]})["ys"] == [3]
    assert shared.spent() == {"usd": 0.75, "tokens": 300, "calls": 3}


def test_cached_answers_take_nothing(shared: Shared) -> None:
    lm = FakeLM(Reply({"answer": "yes"}, usage=(3, 2)), cache=True)
    edge = edge_of(dspy.Predict("item -> answer"), budget=shared.budget(calls=2), on_error="collect")
    with dspy.context(lm=lm):
        found = [edge.invoke({"xs": ["the same"]})["ys"][0] for _ in range(5)]
    assert not any(map(is_item_error, found))
    assert shared.spent()["calls"] <= 2
