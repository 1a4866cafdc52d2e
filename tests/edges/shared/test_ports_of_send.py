"""What a graph of `Send`s needs to be written with edges: several keys, batches by a function, items as they
finish."""

import asyncio
import operator
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send
from pydantic import BaseModel
from typing_extensions import TypedDict

from mahsm import connect, jit_edge, parallel, reduce_edge, vmap
from mahsm.errors import EdgeError, MissingKeyError, StateError
from mahsm.policies import is_item_error
from tests.helpers import MODES, run, thread


class Report(TypedDict):
    sections: list[str]
    done: Annotated[list[str], operator.add]
    sources: Annotated[str, operator.add]
    last: list[str]
    failed: list[Any]


def write(state: dict[str, Any]) -> dict[str, Any]:
    section = state["section"]
    if section == "bad":
        raise ValueError("no")
    return {"done": [section.upper()], "sources": f"[{section}]"} | (
        {"last": section} if section != "b" else {}
    )


def written(**options: Any) -> Any:
    given: dict[str, Any] = {"batch_key": "sections", "out_key": ["done", "sources"], "name": "write"}
    return vmap(write, item_to_state=lambda section: {"section": section}, **(given | options))


# Several keys.


@pytest.mark.parametrize("wired", ["connect", "add_node"])
@pytest.mark.parametrize("mode", MODES)
def test_each_key_goes_through_the_parents_reducer_as_by_a_send(mode: str, wired: str) -> None:
    sends = StateGraph(Report)
    sends.add_node(
        "write", lambda state: {key: value for key, value in write(state).items() if key != "last"}
    )
    sends.add_conditional_edges(
        START, lambda state: [Send("write", {"section": section}) for section in state["sections"]], ["write"]
    )
    given = {"sections": ["a", "b", "c"], "done": ["START"], "sources": "!"}
    sent = run(sends.compile(), given, mode)
    builder = StateGraph(Report)
    if wired == "connect":
        connect(builder, START, written(), END)
    else:
        builder.add_node("write", written())
        builder.add_edge(START, "write")
    assert run(builder.compile(), given, mode) == sent
    assert sent["sources"] == "![a][b][c]"


@pytest.mark.parametrize("mode", MODES)
def test_a_key_without_a_reducer_gets_the_list(mode: str) -> None:
    edge = written(out_key=("done", "last"), on_error="drop", errors_key="failed")
    state = run(
        connect(StateGraph(Report), START, edge, END).compile(), {"sections": ["a", "b", "bad", "c"]}, mode
    )
    assert state["done"] == ["A", "B", "C"]
    assert state["last"] == ["a", "c"]
    assert [error["index"] for error in state["failed"]] == [2]


@pytest.mark.parametrize("mode", MODES)
def test_alone_they_are_lists(mode: str) -> None:
    expected = {"done": [["A"], ["B"]], "sources": ["[a]", "[b]"]}
    assert run(written(), {"sections": ["a", "b"]}, mode) == expected
    assert run(written().compile(), {"sections": ["a", "b"]}, mode) == {"sections": ["a", "b"]} | expected
    assert run(written(), {"sections": []}, mode) == {"done": [], "sources": []}
    outer = vmap(written(), sample=2, out_key="all")
    assert run(outer, {"sections": ["a", "b"]}, mode) == {"all": [expected, expected]}


@pytest.mark.parametrize("mode", MODES)
def test_a_single_key_in_a_list_is_reduced_item_by_item(mode: str) -> None:
    state = run(
        connect(StateGraph(Report), START, written(out_key=["done"]), END).compile(),
        {"sections": ["a"]},
        mode,
    )
    assert state["done"] == ["A"]


@pytest.mark.parametrize("mode", MODES)
def test_a_resume_keeps_what_was_written(mode: str) -> None:
    calls: list[str] = []
    broken = [True]

    def flaky(state: dict[str, Any]) -> dict[str, Any]:
        calls.append(state["item"])
        if state["item"] == "c" and broken:
            broken.clear()
            raise ValueError("once")
        return {"done": [state["item"]], "sources": state["item"]}

    edge = vmap(flaky, batch_key="sections", out_key=["done", "sources"], max_concurrency=1)
    graph, config = (
        connect(StateGraph(Report), START, edge, END).compile(checkpointer=InMemorySaver()),
        thread(),
    )
    with pytest.raises(ValueError, match="once"):
        run(graph, {"sections": ["a", "b", "c"]}, mode, config)
    assert run(graph, None, mode, config)["sources"] == "abc"
    assert sorted(calls) == ["a", "b", "c", "c"]


@pytest.mark.parametrize("wired", ["connect", "add_node"])
@pytest.mark.parametrize("nothing", [None, {}])
@pytest.mark.parametrize("mode", MODES)
def test_an_item_may_write_nothing_as_by_a_send(mode: str, nothing: Any, wired: str) -> None:
    def odd(state: Any) -> Any:
        return {"done": [state["item"]], "sources": state["item"]} if state["item"] in "ac" else nothing

    sends, builder = StateGraph(Report), StateGraph(Report)
    sends.add_node("odd", odd)
    sends.add_conditional_edges(
        START, lambda state: [Send("odd", {"item": x}) for x in state["sections"]], ["odd"]
    )
    edge = vmap(odd, batch_key="sections", out_key=["done", "sources"], name="odd")
    if wired == "connect":
        connect(builder, START, edge, END)
    else:
        builder.add_node("odd", edge)
        builder.add_edge(START, "odd")
    for sections in (["a", "b", "c"], ["b"], ["c"]):
        assert run(builder.compile(), {"sections": sections}, mode) == run(
            sends.compile(), {"sections": sections}, mode
        )
    assert run(edge, {"sections": ["a", "b", "c"]}, mode) == {"done": [["a"], ["c"]], "sources": ["a", "c"]}


@pytest.mark.parametrize("mode", MODES)
def test_so_may_a_graph(mode: str) -> None:
    class Own(TypedDict, total=False):
        item: str
        done: list[str]

    own = StateGraph(Own)
    own.add_node("odd", lambda state: {"done": [state["item"]]} if state["item"] == "a" else {})
    own.add_edge(START, "odd")
    edge = vmap(own.compile(), batch_key="sections", out_key=["done"])
    assert run(connect(StateGraph(Report), START, edge, END).compile(), {"sections": ["a", "b"]}, mode)[
        "done"
    ] == ["a"]


@pytest.mark.parametrize("given", [None, {"other": 1}])
def test_an_error_says_how_an_item_may_lack_a_single_key(given: Any) -> None:
    target = lambda state: {"a": 1} if state["item"] else given  # noqa: E731
    with pytest.raises(
        MissingKeyError, match=r"result='a', but .*result=lambda update: \(update or {}\).get\('a'\)"
    ):
        vmap(target, batch_key="xs", out_key="ys", result="a").invoke({"xs": [0, 1]})
    edge = vmap(target, batch_key="xs", out_key="ys", result=lambda update: (update or {}).get("a"))
    assert edge.invoke({"xs": [0, 1]}) == {"ys": [None, 1]}


@pytest.mark.parametrize("given", ["text", {"other": 1}])
@pytest.mark.parametrize("mode", MODES)
def test_what_an_item_gives_is_not_lost_for_want_of_a_key(mode: str, given: Any) -> None:
    edge = vmap(lambda state: given, batch_key="xs", out_key=["a", "b"], name="edge")
    with pytest.raises(
        MissingKeyError,
        match=r"edge: out_key has 'a', 'b', but the target returned .*one of these keys, or None",
    ):
        run(edge, {"xs": [1]}, mode)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out_key": []}, r"out_key=\[\]; expected the name of a state key"),
        ({"out_key": ["a", 3]}, r"out_key=3; expected the name of a state key"),
        ({"out_key": ["a", "a"]}, r"out_key=\['a', 'a'\] repeats a key"),
        ({"on_error": "collect"}, r"out_key names several keys.*on_error='drop' with errors_key="),
        ({"result": "done"}, r"result='done' is one key, and out_key names several"),
        ({"on_error": "drop", "errors_key": "done"}, r"errors_key and out_key are both 'done'"),
    ],
)
def test_several_keys_are_checked(options: Any, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        written(**options)


def test_a_function_may_make_the_keys() -> None:
    edge = vmap(
        lambda state: state["item"], batch_key="xs", out_key=["a", "b"], result=lambda x: {"a": x, "b": -x}
    )
    assert edge.invoke({"xs": [1, 2]}) == {"a": [1, 2], "b": [-1, -2]}


def test_connect_checks_each_key() -> None:
    with pytest.raises(EdgeError, match="uses 'dnoe', but the state schema Report"):
        connect(StateGraph(Report), START, written(out_key=["dnoe", "sources"]), END)


# A batch by a function.


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_by_a_function_is_not_stored(mode: str) -> None:
    saver = InMemorySaver()
    edge = vmap(
        lambda state: state["item"],
        batch=lambda state: [section + "!" for section in state["sections"] if section != "b"],
        out_key="done",
    )
    graph = connect(StateGraph(Report), START, edge, END).compile(checkpointer=saver)
    assert run(graph, {"sections": ["a", "b", "c"]}, mode, thread())["done"] == ["a!", "c!"]
    assert edge.reads == frozenset()
    snapshots = [snapshot.values for snapshot in graph.get_state_history(thread())]
    assert all("a!" not in str(values.get("sections")) for values in snapshots)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_by_a_function_resumes(mode: str) -> None:
    calls: list[int] = []
    broken = [True]

    def flaky(state: dict[str, Any]) -> int:
        calls.append(state["item"])
        if state["item"] == 2 and broken:
            broken.clear()
            raise ValueError("once")
        return state["item"]

    edge = vmap(flaky, batch=lambda state: range(state["n"]), out_key="ys", max_concurrency=1)
    graph, config = edge.compile(checkpointer=InMemorySaver()), thread()
    with pytest.raises(ValueError, match="once"):
        run(graph, {"n": 4}, mode, config)
    assert run(graph, None, mode, config)["ys"] == [0, 1, 2, 3]
    assert sorted(calls) == [0, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"edge: batch\(state\) is None; expected a list of items"),
        ("text", r"batch\(state\) is 'text', of type str; expected a list"),
        ({"a": 1}, r"batch\(state\) is .*a mapping.*list\(items.values\(\)\)"),
        ({1}, r"batch\(state\) is \{1\}, a set"),
        (3, r"batch\(state\) is 3, of type int"),
    ],
)
def test_what_is_no_batch(given: Any, message: str) -> None:
    with pytest.raises(StateError, match=message):
        vmap(lambda state: 1, batch=lambda state: given, out_key="ys", name="edge").invoke({})


def test_one_source_of_items() -> None:
    async def later(state: Any) -> list[int]:
        return [1]

    for options in ({}, {"batch_key": "xs", "batch": len}, {"batch": len, "sample": 2}):
        with pytest.raises(
            EdgeError, match="expected one of them: the state key of the items, a function that returns them"
        ):
            vmap(lambda state: 1, out_key="ys", **options)
    with pytest.raises(EdgeError, match="batch=3 cannot be called"):
        vmap(lambda state: 1, out_key="ys", batch=3)  # type: ignore[arg-type]
    with pytest.raises(EdgeError, match="is async; expected a plain function"):
        vmap(lambda state: 1, out_key="ys", batch=later)


def test_a_batch_by_a_function_of_a_jit_edge() -> None:
    edge = vmap(
        jit_edge(lambda x: x * 2, in_keys=["item"], out_key="y"),
        batch=lambda state: [1.0, 2.0],
        out_key="ys",
        result="y",
    )
    assert [float(y) for y in edge.invoke({})["ys"]] == [2.0, 4.0]
    with pytest.raises(EdgeError, match="one computation, which gives one value for each"):
        vmap(jit_edge(lambda x: x, in_keys=["item"], out_key="y"), batch_key="xs", out_key=["a", "b"])
    with pytest.raises(EdgeError, match="progress='items', but all items"):
        vmap(
            jit_edge(lambda x: x, in_keys=["item"], out_key="y"),
            batch_key="xs",
            out_key="ys",
            progress="items",
        )


# Items as they finish.


def events_of(graph: Any, given: Any, mode: str) -> list[Any]:
    async def read() -> list[Any]:
        return [event async for event in graph.astream(given, stream_mode="custom")]

    events = list(graph.stream(given, stream_mode="custom")) if mode == "sync" else asyncio.run(read())
    return [event for event in events if "index" in event]


@pytest.mark.parametrize("chunk_size", [1, 2])
@pytest.mark.parametrize("mode", MODES)
def test_events_of_items(mode: str, chunk_size: int) -> None:
    edge = written(
        out_key="done",
        result="done",
        on_error="collect",
        progress="items",
        max_concurrency=1,
        chunk_size=chunk_size,
    )
    graph = connect(StateGraph(Report), START, edge, END).compile()
    first, second, third = events_of(graph, {"sections": ["a", "bad", "c"]}, mode)
    assert first == {"edge": "write", "item": (0,), "index": 0, "value": ["A"]}
    assert third == {"edge": "write", "item": (2,), "index": 2, "value": ["C"]}
    assert second["index"] == 1
    assert second["error"]["message"] == "no"
    assert "value" not in second


@pytest.mark.parametrize("mode", MODES)
def test_events_of_equal_items_and_of_nested_edges(mode: str) -> None:
    inner = vmap(
        lambda state: state["item"],
        batch_key="row",
        out_key="cells",
        progress="items",
        dedupe_key=abs,
        max_concurrency=1,
    )
    outer = vmap(
        inner,
        batch_key="rows",
        out_key="done",
        item_to_state=lambda row: {"row": row},
        result="cells",
        max_concurrency=1,
    )
    events = events_of(outer.compile(), {"rows": [[1, -1], [2]]}, mode)
    assert [(event["item"], event["value"]) for event in events] == [((0, 0), 1), ((0, 1), 1), ((1, 0), 2)]


def test_progress_of_items_shows_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    edge = vmap(lambda state: 1, batch_key="xs", out_key="ys", progress="items")
    assert edge.invoke({"xs": [1]}) == {"ys": [1]}
    assert capsys.readouterr().err == ""
    with pytest.raises(EdgeError, match="progress='item'; expected True or False"):
        vmap(lambda state: 1, batch_key="xs", out_key="ys", progress="item")  # type: ignore[arg-type]


async def collected(finished: AsyncIterator[tuple[int, Any]]) -> list[tuple[int, Any]]:
    return [pair async for pair in finished]


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("chunk_size", [1, 2, None])
async def test_items_as_they_finish(chunk_size: int | None, blocks: bool) -> None:
    """Each item waits for the one after it, so they finish in reverse."""
    ends = [asyncio.Event() for _ in range(4)]
    ends[3].set()

    async def waits(state: dict[str, Any]) -> int:
        await ends[state["item"]].wait()
        if state["item"]:
            ends[state["item"] - 1].set()
        return state["item"] * 10

    def at_once(state: dict[str, Any]) -> int:
        return state["item"] * 10

    edge = vmap(at_once if blocks else waits, batch_key="xs", out_key="ys", chunk_size=chunk_size)
    pairs = await collected(edge.as_completed({"xs": [0, 1, 2, 3]}))
    assert (sorted(pairs) if blocks else pairs[::-1]) == [(0, 0), (1, 10), (2, 20), (3, 30)]


@pytest.mark.parametrize("config", [None, {}])
@pytest.mark.parametrize("keys", [["done"], ["done", "sources"]])
async def test_items_of_several_keys_come_too(keys: list[str], config: Any) -> None:
    edge = written(out_key=keys)
    for one in (edge, edge.within(StateGraph(Report))):
        pairs = await collected(one.as_completed({"sections": ["x"]}, config))
        assert pairs == [(0, {key: {"done": ["X"], "sources": "[x]"}[key] for key in keys})]


async def test_an_item_comes_while_others_run() -> None:
    go_on = asyncio.Event()

    async def waits(state: dict[str, Any]) -> int:
        if state["item"]:
            await go_on.wait()
        return state["item"]

    finished = vmap(waits, batch_key="xs", out_key="ys").as_completed({"xs": [0, 1]})
    assert await anext(finished) == (0, 0)
    go_on.set()
    assert await collected(finished) == [(1, 1)]


async def test_leaving_the_loop_cancels_the_rest() -> None:
    cancelled: list[int] = []

    async def waits(state: dict[str, Any]) -> int:
        if state["item"]:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(state["item"])
                raise
        return state["item"]

    finished = vmap(waits, batch_key="xs", out_key="ys").as_completed({"xs": [0, 1, 2]})
    async for pair in finished:
        assert pair == (0, 0)
        break
    await finished.aclose()  # type: ignore[attr-defined]
    assert sorted(cancelled) == [1, 2]


async def test_failed_items_come_as_errors_or_raise() -> None:
    def fails(state: dict[str, Any]) -> int:
        return 1 // state["item"]

    for on_error in ("collect", "drop"):
        edge = vmap(fails, batch_key="xs", out_key="ys", on_error=on_error, max_concurrency=1)
        (_, error), second = await collected(edge.as_completed({"xs": [0, 1]}))
        assert is_item_error(error)
        assert second == (1, 1)
    finished = vmap(fails, batch_key="xs", out_key="ys", max_concurrency=1).as_completed({"xs": [1, 0]})
    assert await anext(finished) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        await anext(finished)


async def test_only_its_own_items() -> None:
    inner = vmap(lambda state: state["item"], batch_key="row", out_key="cells")
    outer = vmap(inner, batch_key="rows", out_key="t", item_to_state=lambda row: {"row": row}, result="cells")
    assert sorted(await collected(outer.as_completed({"rows": [[1], [2]]}))) == [(0, [1]), (1, [2])]
    with pytest.raises(EdgeError, match="as_completed needs a vmap"):
        await collected(reduce_edge(input_key="a", output_key="b", reducer=sum).as_completed({"a": []}))


# `connect`, `Command` and `Send`.


class Secret(TypedDict):
    hidden: list[int]


@pytest.mark.parametrize("mode", MODES)
def test_connect_takes_functions_and_private_keys(mode: str) -> None:
    class State(TypedDict):
        total: int
        ys: list[int]

    def find(state: State) -> Secret:
        return {"hidden": [1, 2, 3]}

    def double(state: dict[str, Any]) -> int:
        return state["item"] * 2

    def add(state: State) -> dict[str, Any]:
        return {"total": sum(state["ys"])}

    builder = StateGraph(State)
    builder.add_node("find", find)
    connect(builder, START, find, vmap(double, batch_key="hidden", out_key="ys"), add, END)
    assert run(builder.compile(), {"total": 0}, mode) == {"total": 12, "ys": [2, 4, 6]}


@pytest.mark.parametrize("mode", MODES)
def test_private_keys_beside_a_pydantic_state_with_reducers(mode: str) -> None:
    class State(BaseModel):
        bias: int = 1
        ys: Annotated[list[int], operator.add] = []

    def find(state: State) -> Secret:
        return {"hidden": [1, 2]}

    edge = vmap(lambda state: state["item"] + state["bias"], batch_key="hidden", out_key="ys", name="edge")
    builder = connect(StateGraph(State), START, find, edge, END)
    assert run(builder.compile(), {"bias": 10, "ys": [0]}, mode)["ys"] == [0, 11, 12]


def test_connect_refuses_a_step_whose_name_is_no_node_name() -> None:
    def ask(state: Any) -> dict[str, Any]:
        return {}

    def other() -> Any:
        def ask(state: Any) -> dict[str, Any]:
            return {}

        return ask

    with pytest.raises(EdgeError, match=r"would be a node '<lambda>', a name that LangGraph does not allow"):
        connect(StateGraph(Report), START, lambda state: {}, END)
    with pytest.raises(EdgeError, match=r"would be a node 'ask', a name that is taken"):
        connect(StateGraph(Report), START, ask, other(), END)
    builder = StateGraph(Report)
    connect(builder, START, ask, END)
    connect(builder, ask, written(), END)
    assert [*builder.nodes] == ["ask", "write"]


@pytest.mark.parametrize("mode", MODES)
def test_commands_and_sends_to_edges(mode: str) -> None:
    builder = StateGraph(Report)
    builder.add_node("plan", lambda state: Command(update={"sections": ["a", "b"]}, goto="write"))
    connect(builder, START, "plan")
    builder.add_node("write", written().within(builder))
    assert run(builder.compile(), {}, mode)["sources"] == "[a][b]"

    builder = StateGraph(Report)
    builder.add_node("write", written().within(builder))
    builder.add_conditional_edges(
        START, lambda state: [Send("write", {"sections": [x]}) for x in state["sections"]], ["write"]
    )
    assert run(builder.compile(), {"sections": ["a", "b"]}, mode)["sources"] == "[a][b]"

    edge = vmap(lambda state: Command(update=state["item"]), batch_key="sections", out_key="done")
    assert run(connect(StateGraph(Report), START, edge, END).compile(), {"sections": ["a"]}, mode)[
        "done"
    ] == ["a"]


@pytest.mark.parametrize("mode", MODES)
def test_several_keys_in_a_branch(mode: str) -> None:
    both = parallel([written()], name="both")
    state = run(both, {"sections": ["a", "b"]}, mode)
    assert state == {"done": [["A"], ["B"]], "sources": ["[a]", "[b]"]}
