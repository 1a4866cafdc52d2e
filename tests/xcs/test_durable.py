"""The durable form: a step that is saved is never called again, whatever ends the run."""

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from mahsm import xcs
from tests import scripts

THREAD: Any = {"configurable": {"thread_id": "1"}}
calls: list[str] = []
broken: set[str] = set()
_lock = threading.Lock()


def note(call: str) -> str:
    with _lock:
        calls.append(call)
    if call in broken:
        raise ConnectionError(call)
    return f"<{call}>"


@xcs.step
def ask(q: str) -> str:
    return note(q)


@xcs.step
async def asked(q: str) -> str:
    await asyncio.sleep(0)
    return note(q)


def program(q: str) -> str:
    found = []
    for i in range(6):
        a = ask(f"{i} {q}")
        if "3" in a:
            a = ask("three")
        try:
            found.append(ask(f"better {a}"))
        except KeyError:
            found.append("never")
    return ask(" ".join(found)) + ask("last")


async def async_program(q: str) -> str:
    found = []
    for i in range(6):
        a = await asked(f"{i} {q}")
        if "3" in a:
            a = await asked("three")
        found.append(await asked(f"better {a}"))
    return await asked(" ".join(found)) + await asked("last")


@pytest.mark.parametrize("fails", ["0 q", "three", "better <1 q>", "last"])
@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("function", [program, async_program], ids=lambda function: function.__name__)
def test_after_an_error_only_unfinished_steps_run_again(function: Any, awaited: bool, fails: str) -> None:
    durable = xcs.jit(function, checkpointer=InMemorySaver())

    def run(input: Any) -> Any:
        return asyncio.run(durable.ainvoke(input, THREAD)) if awaited else durable.invoke(input, THREAD)

    calls.clear()
    broken.add(fails)
    try:
        with pytest.raises(ConnectionError, match=fails):
            run("q")
    finally:
        broken.clear()
    finished = [call for call in calls if call != fails]
    calls.clear()
    found = run(None)
    again = list(calls)
    assert fails in again
    assert not set(again) & set(finished)
    calls.clear()
    assert found == program("q")
    assert sorted([*again, *finished]) == sorted(calls)


def test_over_sqlite(tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "a.db")) as saver:
        durable = xcs.jit(program, checkpointer=saver)
        broken.add("last")
        with pytest.raises(ConnectionError):
            durable.invoke("q", THREAD)
        broken.clear()
        calls.clear()
        durable.invoke(None, THREAD)
        assert calls == ["last"]

    async def main() -> None:
        async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "b.db")) as saver:
            durable = xcs.jit(async_program, checkpointer=saver)
            broken.add("last")
            with pytest.raises(ConnectionError):
                await durable.ainvoke("q", THREAD)
            broken.clear()
            calls.clear()
            await durable.ainvoke(None, THREAD)
            assert calls == ["last"]

    asyncio.run(main())


class State(TypedDict, total=False):
    q: str
    answer: Any


def test_a_node_inherits_the_checkpointer() -> None:
    @xcs.jit
    def node(state: State) -> State:
        return {"answer": [ask("a"), ask("b"), ask(state["q"])]}

    builder = StateGraph(State)
    builder.add_node("node", node.node())
    builder.add_edge(START, "node")
    graph = builder.compile(checkpointer=InMemorySaver())
    broken.add("q")
    with pytest.raises(ConnectionError):
        graph.invoke({"q": "q"}, THREAD)
    broken.clear()
    calls.clear()
    assert graph.invoke(None, THREAD)["answer"] == ["<a>", "<b>", "<q>"]
    assert calls == ["q"]


def test_an_interrupt_waits_for_an_answer() -> None:
    @xcs.step
    def approve(q: str) -> str:
        note(f"approve {q}")
        return f"{q} {interrupt('really?')}"

    durable = xcs.jit(lambda q: [ask(q), approve(q), ask("b")], checkpointer=InMemorySaver())
    calls.clear()
    found = durable.invoke("q", THREAD)
    assert [one.value for one in found["__interrupt__"]] == ["really?"]
    calls.clear()
    assert durable.invoke(Command(resume="yes"), THREAD) == ["<q>", "q yes", "<b>"]
    assert calls == ["approve q"]


def test_it_streams_and_draws() -> None:
    durable = xcs.jit(lambda q: [ask(q), ask("b")], checkpointer=InMemorySaver(), name="two")
    chunks = list(durable.stream("a", THREAD))
    assert sorted(str(chunk) for chunk in chunks[:2]) == ["{'ask': '<a>'}", "{'ask': '<b>'}"]
    assert chunks[-1] == {"two": ["<a>", "<b>"]}
    assert "two" in durable.graph.get_graph().draw_mermaid()
    assert durable.graph.get_state(THREAD).values == ["<a>", "<b>"]


async def test_it_streams_awaited() -> None:
    durable = xcs.jit(async_program, checkpointer=InMemorySaver())
    chunks = [chunk async for chunk in durable.astream("q", THREAD)]
    assert len(chunks) == 16
    assert (await durable.graph.aget_state(THREAD)).values == chunks[-1]["async_program"]
    with pytest.raises(TypeError, match="async_program is async; use astream"):
        list(durable.stream("q", THREAD))


def test_a_call_without_a_thread() -> None:
    durable = xcs.jit(program, checkpointer=InMemorySaver())
    with pytest.raises(TypeError, match=r"program has a checkpointer, which needs the id of a thread"):
        durable("q")


def test_several_parameters() -> None:
    durable = xcs.jit(lambda a, b, c="c": [ask(a), ask(b), c], checkpointer=InMemorySaver())
    assert durable.invoke({"a": "1", "b": "2"}, THREAD) == ["<1>", "<2>", "c"]
    with pytest.raises(TypeError, match="expected a dict of the arguments 'a', 'b'"):
        durable.invoke("1", {"configurable": {"thread_id": "2"}})


def test_no_parameters_and_parameters_by_name() -> None:
    assert xcs.jit(lambda: [ask("a")], checkpointer=InMemorySaver()).invoke({}, THREAD) == ["<a>"]
    by_name = xcs.jit(lambda *, q: ask(q), checkpointer=InMemorySaver())
    assert by_name.invoke({"q": "b"}, THREAD) == "<b>"


@pytest.mark.parametrize("most", [1, 2])
async def test_few_slots(most: int) -> None:
    def many(q: str) -> str:
        first = [ask(f"{i}") for i in range(5)]
        return ask("".join([ask(one) for one in first]))

    durable = xcs.jit(many, checkpointer=InMemorySaver(), max_concurrency=most)
    wanted = await asyncio.to_thread(durable.invoke, "q", THREAD)
    assert wanted == await durable.ainvoke("q", {"configurable": {"thread_id": "2"}})


def test_what_waits_for_an_interrupt_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    @xcs.step
    def approve(q: str) -> str:
        return f"{q} {interrupt('really?')}"

    durable = xcs.jit(lambda q: ask(f"after {approve(q)}"), checkpointer=InMemorySaver())
    for place in range(30):
        durable.invoke("q", {"configurable": {"thread_id": f"{place}"}})
    assert caplog.messages == []


async def test_coroutines_that_begin_steps_in_another_order_after_a_resume() -> None:
    """The first one waits for the others; after the resume nothing does, and the first is the first."""
    others = asyncio.Event()

    @xcs.step
    async def slow(q: str) -> str:
        await asyncio.wait_for(others.wait(), 30)
        return note(q)

    async def helper(q: str) -> str:
        first = await (slow(q) if q == "a" else asked(q))
        answer = await asked(f"second {q}") if first else ""
        if len(answer) and q == "c":
            others.set()
        return answer

    async def several(q: str) -> list[Any]:
        together = asyncio.gather(helper("a"), helper("b"), helper("c"))  # noqa: TID251  as people write it
        return [*await together, await asked("last")]

    durable = xcs.jit(several, checkpointer=InMemorySaver())
    calls.clear()
    broken.add("last")
    try:
        with pytest.raises(ConnectionError):
            await durable.ainvoke("q", THREAD)
    finally:
        broken.clear()
    found = await durable.ainvoke(None, THREAD)
    assert found == ["<second a>", "<second b>", "<second c>", "<last>"]
    assert [calls.count(call) for call in ("a", "b", "c", "last")] == [1, 1, 1, 2]


# Kills.

SCRIPT = """
import os, sys, threading
from langgraph.checkpoint.sqlite import SqliteSaver
from mahsm import xcs

folder, last = sys.argv[1], int(sys.argv[2])
lock, count = threading.Lock(), 0

@xcs.step
def ask(q):
    global count
    with lock:
        count += 1
        if count == last:
            os._exit(9)
        with open(folder + "/calls", "a") as file:
            file.write(q + "\\n")
    return "<" + q + ">"

def program(q):
    found = []
    for i in range(8):
        a = ask(f"{i} {q}")
        if i % 3 == 2 and "<" in a:
            a = ask(f"third {a}")
        found.append(ask(f"better {a}"))
    return ask("judge " + found[0] + found[-1])

with SqliteSaver.from_conn_string(folder + "/steps.db") as saver:
    durable = xcs.jit(program, checkpointer=saver)
    thread = {"configurable": {"thread_id": "1"}}
    has_begun = saver.get(thread) is not None
    print(durable.invoke(None if has_begun else "q", thread))
"""


def saved(folder: Path) -> int:
    """Return how many steps a database holds the results of."""
    with sqlite3.connect(folder / "steps.db") as database:
        rows = database.execute("select count(distinct task_id) from writes where channel = '__return__'")
        return int(rows.fetchone()[0])


@pytest.mark.parametrize("last", range(1, 20))
def test_a_kill_at_each_step(last: int, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(SCRIPT)
    status, _, _ = scripts.run(script, tmp_path, 300, [str(tmp_path), str(last)])
    assert status == 9
    before = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
    kept = saved(tmp_path)
    (tmp_path / "calls").write_text("")
    status, printed, errors = scripts.run(script, tmp_path, 300, [str(tmp_path), "0"])
    after = (tmp_path / "calls").read_text().splitlines()
    assert status == 0, errors
    assert printed.strip() == "<judge <better <0 q>><better <7 q>>>"
    assert len(after) == 19 - kept, "steps that are saved are not called again, and all others are"
    assert len({*before, *after}) == 19
