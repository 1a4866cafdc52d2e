"""`parallel`: order, what branches see, merging, failures, interrupts, resuming."""

import asyncio
import operator
import threading
import time
from dataclasses import dataclass
from typing import Annotated, Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from mahsm import Branch, Budget, RateLimit, Retry, budget, connect, dspy_node, is_item_error, limits, parallel, vmap
from mahsm.errors import BudgetExceeded, EdgeError, MissingKeyError, NodeError
from mahsm.testing import ModelServer, Reply
from tests.helpers import MODES, Gauge, graph_of, run, thread

WAVES: list[dict[str, Any]] = [{"scheduler": "wave"}, {"scheduler": "wave", "eager": True}]
SCHEDULERS: list[dict[str, Any]] = [*WAVES, {"scheduler": "sequential"}, {"scheduler": "parallel"}]


class State(TypedDict, total=False):
    text: str
    a: Any
    b: Any
    c: Any
    d: Any
    log: Annotated[list[str], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]
    errors: Any


def writes(key: str, value: Any = None, *reads: str) -> Branch:
    """A branch that writes a key, made of the keys that it reads."""
    return Branch(
        lambda state: {key: value if value is not None else key + "".join(state[read] for read in reads)},
        name=key,
        reads=reads,
        writes=[key],
    )


def fails(_: Any) -> None:
    raise ValueError("broken")


# What comes of it.


@pytest.mark.parametrize("options", SCHEDULERS)
@pytest.mark.parametrize("mode", MODES)
def test_different_keys_merge(mode: str, options: Any) -> None:
    edge = parallel({"a": lambda state: {"a": state["text"] + "1"}, "b": lambda state: {"b": state["text"] + "2"}}, **options)
    assert run(edge, {"text": "x"}, mode) == {"a": "x1", "b": "x2"}


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_all_begin_at_once(mode: str, blocks: bool) -> None:
    barrier, arrived, everybody = threading.Barrier(3), 0, asyncio.Event()

    def blocking(state: Any) -> None:
        barrier.wait(10)

    async def awaiting(state: Any) -> None:
        nonlocal arrived
        arrived += 1
        if arrived == 3:
            everybody.set()
        await asyncio.wait_for(everybody.wait(), 10)

    assert run(parallel([blocking if blocks else awaiting] * 3), {}, mode) == {}


@pytest.mark.parametrize("mode", MODES)
def test_targets_of_every_kind(mode: str) -> None:
    inner = vmap(lambda state: state["item"] * 2, batch_key="xs", out_key="doubled")
    graph = StateGraph(State).add_node("one", lambda state: {"c": "graph"}).add_edge(START, "one").compile()
    ask = dspy.Predict("text -> answer")
    edge = parallel([inner, graph, ask, parallel([writes("d", 4)])])
    with ModelServer(Reply({"answer": "yes"})) as server, dspy.context(lm=server.lm()):
        update = run(edge, {"xs": [1, 2], "text": "?"}, mode)
    assert update["doubled"] == [2, 4]
    assert update["answer"] == "yes"
    assert (update["c"], update["d"]) == ("graph", 4)


@pytest.mark.parametrize("mode", MODES)
def test_parallel_in_vmap_in_parallel(mode: str) -> None:
    both = parallel({"plus": lambda state: {"plus": state["item"] + 1}, "times": lambda state: {"times": state["item"] * 2}})
    each = vmap(both, batch_key="xs", out_key="pairs")
    assert run(parallel([each]), {"xs": [1, 2]}, mode) == {"pairs": [{"plus": 2, "times": 2}, {"plus": 3, "times": 4}]}


@pytest.mark.parametrize("mode", MODES)
def test_results_that_are_no_update(mode: str) -> None:
    assert run(parallel([lambda state: None]), {}, mode) == {}
    with pytest.raises(NodeError, match=r"the branch 'five' returned 5; expected a dict of state keys"):
        run(parallel({"five": lambda state: 5}), {}, mode)


# Merging.


@pytest.mark.parametrize("mode", MODES)
def test_two_writers_of_one_key_are_named(mode: str) -> None:
    with pytest.raises(
        EdgeError, match=r"the branches 'x' and 'y' both wrote 'a', and nothing says which counts. Let them write"
    ):
        run(parallel({"x": lambda state: {"a": 1}, "y": lambda state: {"a": 2}}), {}, mode)


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_merge_resolves_it(mode: str, waits: bool) -> None:
    seen: dict[str, Any] = {}

    def merge(state: Any, updates: Any) -> Any:
        seen.update(updates)
        return {"a": sum(update["a"] for update in updates.values()) + state["base"]}

    async def merge_later(state: Any, updates: Any) -> Any:
        await asyncio.sleep(0)
        return merge(state, updates)

    edge = parallel({"x": lambda state: {"a": 1}, "y": lambda state: {"a": 2}}, merge=merge_later if waits else merge)
    assert run(edge, {"base": 10}, mode) == {"a": 13}
    assert seen == {"x": {"a": 1}, "y": {"a": 2}}


@pytest.mark.parametrize("mode", MODES)
def test_keys_that_the_parent_reduces_get_each_value_once_in_order(mode: str) -> None:
    def says(name: str, seconds: float) -> Any:
        def target(state: Any) -> Any:
            time.sleep(seconds)
            return {"log": [name], "messages": [AIMessage(name)], name: 1}

        return target

    edge = parallel({"a": says("a", 0.02), "b": says("b", 0), "c": says("c", 0.01)})
    for graph in (graph_of(edge, state=State), edge.compile(State)):
        state = run(graph, {"log": ["before"], "messages": [HumanMessage("?")]}, mode)
        assert state["log"] == ["before", "a", "b", "c"]
        assert [message.content for message in state["messages"]] == ["?", "a", "b", "c"]
        assert (state["a"], state["b"], state["c"]) == (1, 1, 1)
    alone = parallel({"a": says("a", 0)})
    assert run(graph_of(alone, state=State), {"log": ["before"]}, mode)["log"] == ["before", "a"]


@pytest.mark.parametrize("options", WAVES)
@pytest.mark.parametrize("mode", MODES)
def test_later_waves_see_reduced_keys_as_the_parent_would(mode: str, options: Any) -> None:
    def counts(state: Any) -> Any:
        return {"b": list(state["log"]), "log": ["b"]}

    edge = parallel([Branch(lambda state: {"log": ["a"]}, name="a"), Branch(counts, name="b", after="a")], **options)
    state = run(graph_of(edge, state=State), {"log": ["before"]}, mode)
    assert state["b"] == ["before", "a"]
    assert state["log"] == ["before", "a", "b"]


@pytest.mark.parametrize("options", [*WAVES, {"scheduler": "sequential"}])
@pytest.mark.parametrize("mode", MODES)
def test_of_two_that_depend_on_each_other_the_later_one_counts(mode: str, options: Any) -> None:
    edge = parallel(
        {
            "draft": Branch(lambda state: {"a": "draft"}, writes=["a"]),
            "revise": Branch(lambda state: {"a": state["a"] + ", revised"}, reads=["a"], writes=["a"], after="draft"),
        },
        **options,
    )
    assert run(edge, {}, mode) == {"a": "draft, revised"}


# Order.


@pytest.mark.parametrize("options", [*WAVES, {"scheduler": "sequential"}])
@pytest.mark.parametrize("mode", MODES)
def test_a_branch_runs_after_those_who_write_what_it_reads(mode: str, options: Any) -> None:
    edge = parallel(
        [writes("d", None, "b", "c"), writes("c", None, "a"), writes("b", None, "a"), writes("a", None, "text")], **options
    )
    assert run(edge, {"text": "."}, mode)["d"] == "dba.ca."


@pytest.mark.parametrize("mode", MODES)
def test_a_parallel_branch_sees_the_state_before(mode: str) -> None:
    edge = parallel({"a": lambda state: {"a": 2}, "b": lambda state: {"b": state["a"]}})
    assert run(edge, {"a": 1}, mode) == {"a": 2, "b": 1}


@pytest.mark.parametrize("mode", MODES)
def test_in_sequence_each_sees_the_updates_before_it(mode: str) -> None:
    edge = parallel([lambda state: {"a": state["a"] + 1}, lambda state: {"a": state["a"] * 10}], scheduler="sequential")
    assert run(edge, {"a": 1}, mode) == {"a": 20}


@dataclass
class Read:
    a: str = ""


class Written(BaseModel):
    b: str


class AlsoWritten(TypedDict):
    a: str


def test_annotations_dspy_nodes_and_edges_say_what_they_depend_on() -> None:
    def typed(state: Read) -> Written:
        raise AssertionError

    def first(state: Any) -> AlsoWritten:
        raise AssertionError

    ask = dspy_node(dspy.Predict("b -> c"))
    fan = vmap(lambda state: state["item"], batch_key="c", out_key="d")
    edge = parallel([fan, ask, typed, first], scheduler="wave")
    plan = edge._sync.__self__.spec.plan
    assert plan.layers == [["first"], ["typed"], ["Predict"], ["vmap_lambda"]]


def test_waves_are_layers_and_can_be_bounded() -> None:
    def layers(*branches: Any, **options: Any) -> Any:
        return parallel(list(branches), scheduler="wave", **options)._sync.__self__.spec.plan.layers

    free = [Branch(lambda state: None, name=name) for name in "abcde"]
    assert layers(*free) == [list("abcde")]
    assert layers(*free, wave_size=2) == [["a", "b"], ["c", "d"], ["e"]]
    last = Branch(lambda state: None, name="f", after=["a", "e"])
    assert layers(last, *free, wave_size=3) == [["a", "b", "c"], ["d", "e"], ["f"]]


@pytest.mark.parametrize("mode", MODES)
def test_an_eager_branch_does_not_wait_for_its_wave(mode: str) -> None:
    done = threading.Event()

    def slow(state: Any) -> Any:
        assert done.wait(10), "the branch that does not need this one ran meanwhile"
        return {"a": 1}

    def last(state: Any) -> Any:
        done.set()
        return {"d": state["b"]}

    edge = parallel(
        [Branch(slow, name="slow"), writes("b", 2), Branch(last, name="last", reads=["b"])], scheduler="wave", eager=True
    )
    assert run(edge, {}, mode) == {"a": 1, "b": 2, "d": 2}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 8), most=st.integers(1, 4), mode=st.sampled_from(MODES))
def test_any_order_of_branches_gives_the_same_state(data: st.DataObject, count: int, most: int, mode: str) -> None:
    """A random acyclic graph, by what branches read and by `after`, in a random order of the list."""
    needs = {place: data.draw(st.sets(st.integers(0, place - 1)) if place else st.just(set[int]())) for place in range(count)}
    by_key = {
        place: data.draw(st.sets(st.sampled_from(sorted(needs[place])))) if needs[place] else set[int]() for place in needs
    }
    order = data.draw(st.permutations(range(count)))
    results: list[Any] = []
    for options in (*WAVES, {"scheduler": "sequential"}):
        ended: set[int] = set()
        gauge = Gauge()

        def branch(place: int, ended: set[int] = ended, gauge: Gauge = gauge) -> Branch:
            async def target(state: dict[str, Any]) -> dict[str, str]:
                with gauge.inside():
                    assert needs[place] <= ended, "no branch begins before those that it depends on have ended"
                    await asyncio.sleep(0)
                    ended.add(place)
                    return {f"k{place}": f"{place}({','.join(state[f'k{read}'] for read in sorted(by_key[place]))})"}

            return Branch(
                target,
                name=f"b{place}",
                reads=[f"k{read}" for read in sorted(by_key[place])],
                writes=[f"k{place}"],
                after=[f"b{other}" for other in sorted(needs[place] - by_key[place])],
            )

        results.append(run(parallel([branch(place) for place in order], max_concurrency=most, **options), {"x": 1}, mode))
        assert gauge.most <= most
    assert results[0] == results[1] == results[2]


# What is refused.


@pytest.mark.parametrize(
    ("branches", "options", "message"),
    [
        ([], {}, r"there are no branches"),
        ("ab", {}, r"branches='ab'; expected a list of targets, or \{name: target\}"),
        (None, {}, r"branches=None"),
        ([fails], {"scheduler": "waves"}, r"scheduler='waves'; expected one of .* Did you mean 'wave'\?"),
        ([fails], {"on_error": "collect"}, r"on_error='collect'; expected one of 'raise', 'isolate'"),
        ([fails], {"wave_size": 2}, r"wave_size=2, but scheduler='parallel' has no waves"),
        ([fails], {"eager": True}, r"eager=True, but scheduler='parallel' has no waves"),
        (
            [fails],
            {"eager": True, "scheduler": "wave", "wave_size": 2},
            r"wave_size=2 with eager=True.*max_concurrency instead",
        ),
        ([fails], {"scheduler": "wave", "wave_size": 0}, r"wave_size=0; expected a whole number >= 1"),
        ([fails], {"max_concurrency": 0}, r"max_concurrency=0; expected a whole number >= 1"),
        ([fails], {"errors_key": "errors"}, r"errors_key='errors' has no effect with on_error='raise'"),
        ([fails], {"merge": lambda updates: updates}, r"merge=.* cannot be called with \(state, updates\)"),
        ([fails], {"merge": "first"}, r"merge='first' cannot be called; expected a function \(state, updates\)"),
        ([fails], {"timeout": -1}, r"timeout=-1; expected seconds > 0"),
        ([Branch(fails, timeout=0)], {}, r"branch 'fails': timeout=0; expected seconds > 0"),
        ([Branch(fails, reads="a")], {}, r"reads='a' is one text; expected a list of state keys, as reads=\['a'\]"),
        ([Branch(fails, after="a")], {}, r"runs after 'a', but there are only 'fails'"),
        (
            [Branch(fails, name="x"), Branch(fails, name="y", after="x")],
            {},
            r"'y' runs after 'x', but scheduler='parallel' runs all",
        ),
        ([Branch(fails, name="x"), Branch(fails, name="x")], {}, r"two branches are named 'x'"),
        ([Branch(fails, name="x:y")], {}, r"name='x:y'; expected a node name"),
        ({"x": Branch(fails, name="y")}, {}, r"the branch 'x' is named 'y' too"),
        (
            [Branch(fails, name="load"), Branch(fails, after="laod")],
            {"scheduler": "wave"},
            r"after 'laod'.* Did you mean 'load'\?",
        ),
    ],
)
def test_arguments_that_cannot_work(branches: Any, options: Any, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        parallel(branches, **options)


def test_a_cycle_is_named() -> None:
    branches = {"a": Branch(fails, after="c"), "b": Branch(fails, after="a"), "c": Branch(fails, after="b"), "d": fails}
    with pytest.raises(EdgeError, match=r"branches wait for each other: a -> b -> c -> a. Take out one"):
        parallel(branches, scheduler="wave")


@pytest.mark.parametrize("mode", MODES)
def test_a_key_that_nobody_writes(mode: str) -> None:
    edge = parallel([writes("b", None, "a")], scheduler="wave")
    with pytest.raises(
        MissingKeyError, match=r"the branch 'b' reads 'a', which no branch is known to write, and state has no key 'a'"
    ):
        run(edge, {"text": "x"}, mode)
    with pytest.raises(EdgeError, match=r"uses 'z', but the state schema State"):
        connect(StateGraph(State), START, parallel([Branch(fails, writes=["z"])]), END)


def test_names() -> None:
    def summarize(state: Any) -> None: ...

    edge = parallel([summarize, summarize, dspy.Predict("a -> b")])
    assert edge.name == "parallel_summarize_summarize_2_Predict"
    assert set(edge.graph.nodes) >= {"summarize", "summarize_2", "Predict"}
    assert parallel([summarize] * 9).name == "parallel_9"
    drawn = graph_of(edge).get_graph(xray=True).draw_mermaid()
    assert "summarize_2" in drawn


# Failures.


@pytest.mark.parametrize("mode", MODES)
def test_an_error_cancels_the_others_and_comes_out_as_it_is(mode: str) -> None:
    cancelled = threading.Event()

    async def waits(_: Any) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def breaks(_: Any) -> None:
        await asyncio.sleep(0.01)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken") as caught:
        run(parallel({"waits": waits, "breaks": breaks}, name="edge"), {}, mode)
    assert "mahsm: edge, branch 'breaks', attempt 1" in caught.value.__notes__
    assert cancelled.wait(10)


@pytest.mark.parametrize("options", [*WAVES, {"scheduler": "sequential"}])
@pytest.mark.parametrize("mode", MODES)
def test_isolated_failures_keep_the_others_and_skip_dependants(mode: str, options: Any) -> None:
    branches = {
        "fine": lambda state: {"a": 1},
        "broken": fails,
        "needs_broken": Branch(lambda state: {"b": 1}, after="broken"),
        "needs_that": Branch(lambda state: {"c": 1}, after="needs_broken"),
        "needs_fine": Branch(lambda state: {"d": state["a"]}, after="fine"),
    }
    update = run(parallel(branches, on_error="isolate", errors_key="errors", **options), {}, mode)
    errors = update.pop("errors")
    assert update == {"a": 1, "d": 1}
    assert [(error["key"], error["type"].split(".")[-1], error["attempts"]) for error in errors] == [
        ("'broken'", "ValueError", 1),
        ("'needs_broken'", "BranchSkipped", 0),
        ("'needs_that'", "BranchSkipped", 0),
    ]
    assert "depends on 'broken', which failed" in errors[1]["message"]
    assert all(map(is_item_error, errors))


@pytest.mark.parametrize("mode", MODES)
def test_errors_beside_reduced_keys(mode: str) -> None:
    edge = parallel(
        {"x": lambda state: {"log": ["x"]}, "y": lambda state: {"log": ["y"]}, "broken": fails},
        on_error="isolate",
        errors_key="errors",
    )
    state = run(graph_of(edge, state=State), {"log": []}, mode)
    assert (state["log"], len(state["errors"])) == (["x", "y"], 1)


@pytest.mark.parametrize("mode", MODES)
def test_each_branch_is_tried_as_it_says(mode: str) -> None:
    limits.forget("parallel-test")
    tries: list[int] = []

    def flaky(_: Any) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("down")
        return {"a": len(tries)}

    async def slow(_: Any) -> None:
        await asyncio.sleep(3600)

    limit = RateLimit("parallel-test", rps=1000)
    edge = parallel(
        {"flaky": Branch(flaky, retry=Retry(base=0), rate_limit=limit), "slow": Branch(slow, timeout=0.01)},
        on_error="isolate",
        errors_key="errors",
    )
    update = run(edge, {}, mode)
    assert update["a"] == 3
    assert update["errors"][0]["message"] == "took longer than 0.01 s"
    assert limits.stats()["parallel-test"].admitted == 3


@pytest.mark.parametrize("mode", MODES)
def test_timeout_of_all(mode: str) -> None:
    async def slow(_: Any) -> None:
        await asyncio.sleep(3600)

    branches = {"quick": lambda state: {"a": 1}, "slow": slow, "never": Branch(lambda state: {"b": 1}, after="slow")}
    edge = parallel(branches, scheduler="wave", timeout=0.1, on_error="isolate", errors_key="errors", name="edge")
    update = run(edge, {}, mode)
    assert update["a"] == 1
    assert next(error["type"].split(".")[-1] for error in update["errors"]) == "TimeoutError"
    assert len(update["errors"]) == 2
    with pytest.raises(TimeoutError, match=r"the deadline of 0.1 s is over"):
        run(parallel(branches, scheduler="wave", timeout=0.1), {}, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_stops_branches_that_have_not_begun(mode: str) -> None:
    edge = parallel([writes(key, 1) for key in "abcd"], scheduler="sequential")
    with budget(calls=2), pytest.raises(BudgetExceeded):
        run(edge, {}, mode)
    isolated = parallel([writes(key, 1) for key in "abcd"], scheduler="sequential", on_error="isolate", errors_key="errors")
    with budget(calls=2):
        update = run(isolated, {}, mode)
    assert (update["a"], update["b"], len(update["errors"])) == (1, 1, 2)
    assert isinstance(Budget(calls=2), Budget)


@pytest.mark.parametrize("mode", MODES)
def test_a_target_that_cancels_itself_has_failed(mode: str) -> None:
    async def gives_up(_: Any) -> None:
        raise asyncio.CancelledError

    update = run(parallel({"gives_up": gives_up, "a": writes("a", 1)}, on_error="isolate", errors_key="errors"), {}, mode)
    assert (update["a"], update["errors"][0]["type"].split(".")[-1]) == (1, "CancelledError")


async def test_a_cancelled_run_ends_branches_that_wait() -> None:
    begun = asyncio.Event()

    async def waits(_: Any) -> None:
        begun.set()
        await asyncio.sleep(3600)

    edge = parallel({"first": waits, "second": Branch(waits, after="first")}, scheduler="wave")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(edge.ainvoke({}))
        await begun.wait()
        task.cancel()
    assert task.cancelled()


# Interrupts and resuming.


@pytest.mark.parametrize("options", [{"scheduler": "parallel"}, *WAVES])
@pytest.mark.parametrize("mode", MODES)
def test_interrupts_in_two_branches_resume_each(mode: str, options: Any) -> None:
    calls: list[str] = []

    def asks(key: str) -> Any:
        return lambda state: {key: interrupt(f"{key}?")}

    def counted(_: Any) -> Any:
        calls.append("c")
        return {"c": 1}

    branches: Any = {"a": asks("a"), "b": asks("b"), "c": counted}
    if options["scheduler"] == "wave":
        branches["d"] = Branch(lambda state: {"d": state["a"] + state["b"]}, after=["a", "b"])
    graph = graph_of(parallel(branches, **options), state=State, checkpointer=InMemorySaver())
    asked = run(graph, {"text": "x"}, mode, thread())["__interrupt__"]
    assert sorted(one.value for one in asked) == ["a?", "b?"]
    state = run(graph, Command(resume={one.id: one.value.upper() for one in asked}), mode, thread())
    assert (state["a"], state["b"], state["c"]) == ("A?", "B?", 1)
    if "d" in branches:
        assert state["d"] == "A?B?"
    assert calls == ["c"], "a finished branch does not run again"


@pytest.mark.parametrize("options", [*WAVES, {"scheduler": "sequential"}])
@pytest.mark.parametrize("mode", MODES)
def test_finished_branches_do_not_run_again(mode: str, options: Any) -> None:
    calls: list[str] = []
    broken = True

    def branch(key: str, *after: str) -> Branch:
        def target(state: Any) -> Any:
            calls.append(key)
            if key == "c" and broken:
                raise ValueError("power cut")
            return {key: key + "".join(state[name] for name in after)}

        return Branch(target, name=key, after=after)

    edge = parallel([branch("a"), branch("b", "a"), branch("c", "b"), branch("d", "a", "c")], **options)
    graph = graph_of(edge, state=State, checkpointer=InMemorySaver())
    with pytest.raises(ValueError, match="power cut"):
        run(graph, {"text": "x"}, mode, thread())
    broken = False
    state = run(graph, None, mode, thread())
    assert state["d"] == "dacba"
    assert calls == ["a", "b", "c", "c", "d"]


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_needs_a_checkpointer(mode: str) -> None:
    with pytest.raises(EdgeError, match=r"called interrupt\(\), but the edge runs alone, without a checkpointer"):
        run(parallel([lambda state: interrupt("?")]), {}, mode)


def test_branches_are_tasks_of_langgraph() -> None:
    graph = graph_of(parallel([writes("a", 1), writes("b", 2)], name="edge"), state=State)
    events = [event for _, event in graph.stream({"text": "x"}, stream_mode="updates", subgraphs=True)]
    assert {next(iter(event)) for event in events} == {"a", "b", "edge"}


def test_the_subgraph_runs_only_in_its_edge() -> None:
    with pytest.raises(EdgeError, match="this subgraph runs only inside its edge"):
        parallel([writes("a", 1)]).graph.invoke({})
