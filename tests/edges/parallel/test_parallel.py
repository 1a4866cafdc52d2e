"""`parallel`: order, what branches see, merging, failures, interrupts, resuming."""

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel
from typing_extensions import TypedDict

from mahsm import Branch, connect, dspy_node, parallel, vmap
from mahsm.errors import EdgeError, MissingKeyError, NodeError
from mahsm.testing import ModelServer, Reply
from tests.helpers import MODES, WAVES, Gauge, fails, graph_of, run, writes
from tests.helpers import BranchState as State

SCHEDULERS: list[dict[str, Any]] = [*WAVES, {"scheduler": "sequential"}, {"scheduler": "parallel"}]


# What comes of it.


@pytest.mark.parametrize("options", SCHEDULERS)
@pytest.mark.parametrize("mode", MODES)
def test_different_keys_merge(mode: str, options: Any) -> None:
    edge = parallel(
        {"a": lambda state: {"a": state["text"] + "1"}, "b": lambda state: {"b": state["text"] + "2"}},
        **options,
    )
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
    both = parallel(
        {
            "plus": lambda state: {"plus": state["item"] + 1},
            "times": lambda state: {"times": state["item"] * 2},
        }
    )
    each = vmap(both, batch_key="xs", out_key="pairs")
    assert run(parallel([each]), {"xs": [1, 2]}, mode) == {
        "pairs": [{"plus": 2, "times": 2}, {"plus": 3, "times": 4}]
    }


@pytest.mark.parametrize("mode", MODES)
def test_results_that_are_no_update(mode: str) -> None:
    assert run(parallel([lambda state: None]), {}, mode) == {}
    with pytest.raises(NodeError, match=r"the branch 'five' returned 5; expected a dict of state keys"):
        run(parallel({"five": lambda state: 5}), {}, mode)


# Merging.


@pytest.mark.parametrize("mode", MODES)
def test_two_writers_of_one_key_are_named(mode: str) -> None:
    with pytest.raises(
        EdgeError,
        match=r"branches 'x' and 'y' both wrote 'a', and neither depends on the other\..*the branches write",
    ):
        run(parallel({"x": lambda state: {"a": 1}, "y": lambda state: {"a": 2}}), {}, mode)


def test_a_reduced_key_of_an_edge_that_does_not_know_its_parent() -> None:
    edge = parallel({"x": lambda state: {"log": ["x"]}, "y": lambda state: {"log": ["y"]}})

    def graph(node: Any) -> Any:
        builder = StateGraph(State)
        builder.add_node("both", node(builder))
        return connect(builder, START, "both", END).compile()

    with pytest.raises(
        EdgeError, match=r"wire it with connect\(builder, ...\), or add edge\.within\(builder\) as the node"
    ):
        graph(lambda builder: edge).invoke({})
    assert graph(edge.within).invoke({})["log"] == ["x", "y"], "as the error says"


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

    edge = parallel(
        {"x": lambda state: {"a": 1}, "y": lambda state: {"a": 2}}, merge=merge_later if waits else merge
    )
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

    edge = parallel(
        [Branch(lambda state: {"log": ["a"]}, name="a"), Branch(counts, name="b", after="a")], **options
    )
    state = run(graph_of(edge, state=State), {"log": ["before"]}, mode)
    assert state["b"] == ["before", "a"]
    assert state["log"] == ["before", "a", "b"]


@pytest.mark.parametrize("options", [*WAVES, {"scheduler": "sequential"}])
@pytest.mark.parametrize("mode", MODES)
def test_of_two_that_depend_on_each_other_the_later_one_counts(mode: str, options: Any) -> None:
    edge = parallel(
        {
            "draft": Branch(lambda state: {"a": "draft"}, writes=["a"]),
            "revise": Branch(
                lambda state: {"a": state["a"] + ", revised"}, reads=["a"], writes=["a"], after="draft"
            ),
        },
        **options,
    )
    assert run(edge, {}, mode) == {"a": "draft, revised"}


# Order.


@pytest.mark.parametrize("options", [*WAVES, {"scheduler": "sequential"}])
@pytest.mark.parametrize("mode", MODES)
def test_a_branch_runs_after_those_who_write_what_it_reads(mode: str, options: Any) -> None:
    edge = parallel(
        [
            writes("d", None, "b", "c"),
            writes("c", None, "a"),
            writes("b", None, "a"),
            writes("a", None, "text"),
        ],
        **options,
    )
    assert run(edge, {"text": "."}, mode)["d"] == "dba.ca."


@pytest.mark.parametrize("mode", MODES)
def test_a_parallel_branch_sees_the_state_before(mode: str) -> None:
    edge = parallel({"a": lambda state: {"a": 2}, "b": lambda state: {"b": state["a"]}})
    assert run(edge, {"a": 1}, mode) == {"a": 2, "b": 1}


@pytest.mark.parametrize("mode", MODES)
def test_in_sequence_each_sees_the_updates_before_it(mode: str) -> None:
    edge = parallel(
        [lambda state: {"a": state["a"] + 1}, lambda state: {"a": state["a"] * 10}], scheduler="sequential"
    )
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
    plan = edge._sync.__wrapped__.__self__.spec.plan
    assert plan.layers == [["first"], ["typed"], ["Predict"], ["vmap_lambda"]]


def test_waves_are_layers_and_can_be_bounded() -> None:
    def layers(*branches: Any, **options: Any) -> Any:
        return parallel(
            list(branches), scheduler="wave", **options
        )._sync.__wrapped__.__self__.spec.plan.layers

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
        [Branch(slow, name="slow"), writes("b", 2), Branch(last, name="last", reads=["b"])],
        scheduler="wave",
        eager=True,
    )
    assert run(edge, {}, mode) == {"a": 1, "b": 2, "d": 2}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 8), most=st.integers(1, 4), mode=st.sampled_from(MODES))
def test_any_order_of_branches_gives_the_same_state(
    data: st.DataObject, count: int, most: int, mode: str
) -> None:
    """A random acyclic graph, by what branches read and by `after`, in a random order of the list."""
    needs = {
        place: data.draw(st.sets(st.integers(0, place - 1)) if place else st.just(set[int]()))
        for place in range(count)
    }
    by_key = {
        place: data.draw(st.sets(st.sampled_from(sorted(needs[place])))) if needs[place] else set[int]()
        for place in needs
    }
    order = data.draw(st.permutations(range(count)))
    results: list[Any] = []
    for options in (*WAVES, {"scheduler": "sequential"}):
        ended: set[int] = set()
        gauge = Gauge()

        def branch(place: int, ended: set[int] = ended, gauge: Gauge = gauge) -> Branch:
            async def target(state: dict[str, Any]) -> dict[str, str]:
                with gauge.inside():
                    assert needs[place] <= ended, (
                        "no branch begins before those that it depends on have ended"
                    )
                    await asyncio.sleep(0)
                    ended.add(place)
                    return {
                        f"k{place}": f"{place}({','.join(state[f'k{one}'] for one in sorted(by_key[place]))})"
                    }

            return Branch(
                target,
                name=f"b{place}",
                reads=[f"k{read}" for read in sorted(by_key[place])],
                writes=[f"k{place}"],
                after=[f"b{other}" for other in sorted(needs[place] - by_key[place])],
            )

        results.append(
            run(parallel([branch(place) for place in order], max_concurrency=most, **options), {"x": 1}, mode)
        )
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
        ([fails], {"eager": "yes"}, r"eager='yes'; expected True or False"),
        ([fails], {"eager": True}, r"eager=True, but scheduler='parallel' has no waves"),
        (
            [fails],
            {"eager": True, "scheduler": "wave", "wave_size": 2},
            r"wave_size=2 has no effect with eager=True.*max_concurrency instead",
        ),
        ([fails], {"scheduler": "wave", "wave_size": 0}, r"wave_size=0; expected an integer >= 1"),
        ([fails], {"max_concurrency": 0}, r"max_concurrency=0; expected an integer >= 1"),
        ([fails], {"errors_key": "errors"}, r"errors_key='errors' has no effect with on_error='raise'"),
        ([fails], {"merge": lambda updates: updates}, r"merge=.* cannot be called with \(state, updates\)"),
        (
            [fails],
            {"merge": "first"},
            r"merge='first' cannot be called; expected a function \(state, updates\)",
        ),
        ([fails], {"timeout": -1}, r"timeout=-1; expected seconds > 0"),
        ([Branch(fails, timeout=0)], {}, r"branch 'fails': timeout=0; expected seconds > 0"),
        (
            [Branch(fails, reads="a")],
            {},
            r"reads='a' is a string; expected a list of state keys, such as reads=\['a'\]",
        ),
        ([Branch(fails, after="a")], {}, r"runs after 'a'; expected one of 'fails'"),
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
    branches = {
        "a": Branch(fails, after="c"),
        "b": Branch(fails, after="a"),
        "c": Branch(fails, after="b"),
        "d": fails,
    }
    with pytest.raises(EdgeError, match=r"branches wait for each other: a -> b -> c -> a. Remove one"):
        parallel(branches, scheduler="wave")


@pytest.mark.parametrize("mode", MODES)
def test_a_key_that_nobody_writes(mode: str) -> None:
    edge = parallel([writes("b", None, "a")], scheduler="wave")
    with pytest.raises(
        MissingKeyError,
        match=r"the branch 'b' reads 'a', which no branch is known to write, and state has no key 'a'",
    ):
        run(edge, {"text": "x"}, mode)
    with pytest.raises(EdgeError, match=r"uses 'z', but the state schema BranchState"):
        connect(StateGraph(State), START, parallel([Branch(fails, writes=["z"])]), END)


def test_names() -> None:
    def summarize(state: Any) -> None: ...

    edge = parallel([summarize, summarize, dspy.Predict("a -> b")])
    assert edge.name == "parallel_summarize_summarize_2_Predict"
    assert set(edge.graph.nodes) >= {"summarize", "summarize_2", "Predict"}
    assert parallel([summarize] * 9).name == "parallel_9"
    drawn = graph_of(edge).get_graph(xray=True).draw_mermaid()
    assert "summarize_2" in drawn
