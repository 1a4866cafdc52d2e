"""Runs that end while jobs are open, and go on: nothing is paid for twice, and no answer is lost."""

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import dspy
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import StateGraph
from langgraph.types import Command

import mahsm
from mahsm import BatchAPI, connect
from mahsm.testing import ModelServer
from tests.edges.batches.conftest import Twice
from tests.helpers import MODES, DictState

WORDS = [f"word {number}" for number in range(8)]
ANSWERS = [f"{word.upper()}!" for word in WORDS]
THREAD = {"configurable": {"thread_id": "1"}}


class Killed(BaseException):
    """Ends a run as a kill would: no code of the run hears of it."""


def graph_of(edge: Any, saver: Any) -> Any:
    builder = StateGraph(DictState)
    connect(builder, "__start__", edge, "__end__")
    return builder.compile(checkpointer=saver)


@contextmanager
def savers(kind: str, folder: Path) -> Iterator[Any]:
    if kind == "memory":
        yield InMemorySaver()
    else:
        with SqliteSaver.from_conn_string(str(folder / "checkpoints.sqlite")) as saver:
            yield saver


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_run_that_is_interrupted_comes_back(
    kind: str, tmp_path: Path, server: ModelServer, edge_of: Any
) -> None:
    for _ in range(2):
        server.jobs.hold_next()
    with savers(kind, tmp_path) as saver:
        graph = graph_of(edge_of(Twice(), api=BatchAPI(poll=0.01, wait="interrupt")), saver)
        first = graph.invoke({"xs": WORDS}, THREAD)["__interrupt__"][0].value["batch_jobs"]
        assert [(job["requests"], job["status"]) for job in first] == [(8, "queued")]
        assert first[0]["id"] == server.jobs.ids[0]
        assert first[0]["label"].startswith("mahsm")
        # It is not done yet.
        again = graph.invoke(Command(resume=True), THREAD)["__interrupt__"][0].value["batch_jobs"]
        assert [job["id"] for job in again] == server.jobs.ids
        server.jobs.finish()
        second = graph.invoke(Command(resume=True), THREAD)["__interrupt__"][0].value["batch_jobs"]
        assert [job["id"] for job in second] == server.jobs.ids[1:]
        server.jobs.finish()
        assert graph.invoke(Command(resume=True), THREAD)["ys"] == ANSWERS
    assert (len(server.jobs.ids), len(server.bill)) == (2, 16)


@asynccontextmanager
async def async_saver(folder: Path) -> Any:
    async with AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.sqlite")) as saver:
        yield saver


def test_a_run_on_a_loop_that_is_interrupted_comes_back(
    tmp_path: Path, server: ModelServer, edge_of: Any
) -> None:
    edge = edge_of(Twice(), api=BatchAPI(poll=0.01, wait="interrupt"))

    async def once(given: Any) -> Any:
        """Each time in a loop of its own, as in a process of its own."""
        async with async_saver(tmp_path) as saver:
            return await graph_of(edge, saver).ainvoke(given, THREAD)

    for _ in range(2):
        server.jobs.hold_next()
    assert "__interrupt__" in asyncio.run(once({"xs": WORDS}))
    server.jobs.finish()
    assert "__interrupt__" in asyncio.run(once(Command(resume=True)))
    server.jobs.finish()
    assert asyncio.run(once(Command(resume=True)))["ys"] == ANSWERS
    assert (len(server.jobs.ids), len(server.bill)) == (2, 16)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("answered", [0, 8, 11], ids="{} calls".format)
def test_a_run_that_fails_goes_on_with_its_answers(
    answered: int, mode: str, tmp_path: Path, server: ModelServer, edge_of: Any
) -> None:
    """An error in an item breaks the run off: at once, after the first round, in the second."""
    calls: list[str] = []

    class Breaks(Twice):
        async def aforward(self, item: str) -> Any:
            found = await super().aforward(item)
            calls.append(item)
            if is_broken and len(calls) > answered - 8:
                raise ValueError("on purpose")
            return found

    is_broken = True
    edge = edge_of(Breaks())
    with savers("sqlite", tmp_path) as saver:
        graph = graph_of(edge, saver)
        with pytest.raises(ValueError, match="on purpose"):
            graph.invoke({"xs": WORDS}, THREAD)
        is_broken = False
        with mahsm.usage() as used:
            assert graph.invoke(None, THREAD)["ys"] == ANSWERS
    assert (len(server.jobs.ids), len(server.bill)) == (2, 16)
    # Items that were complete do not ask again; the others get batch prices, whenever their job was fetched.
    assert used.usd == pytest.approx(server.bill.usd * used.calls / 16)


def test_equal_requests_keep_their_answers(tmp_path: Path, server: ModelServer, edge_of: Any) -> None:
    server.jobs.hold_next()
    edge = edge_of(api=BatchAPI(poll=0.01, wait="interrupt"))
    with savers("sqlite", tmp_path) as saver:
        graph = graph_of(edge, saver)
        graph.invoke({"xs": ["same"] * 4}, THREAD)
        server.jobs.finish()
        assert graph.invoke(Command(resume=True), THREAD)["ys"] == ["SAME"] * 4
    assert (len(server.jobs.ids), len(server.bill)) == (1, 4)


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5-20251001"])
@pytest.mark.parametrize("others", [0, 3])
def test_a_job_is_found_whose_id_was_not_noted(
    others: int, model: str, tmp_path: Path, server: ModelServer, edge_of: Any, monkeypatch: Any
) -> None:
    """The process ends between the provider's acceptance and the note. Others submit jobs as large."""
    from mahsm._batches.journal import Journal

    noted = Journal.submitted

    async def dies(self: Journal, note: Any, id: str) -> Any:
        raise ValueError("killed")

    edge = edge_of()
    lm = server.lm(model, max_tokens=100)
    with savers("sqlite", tmp_path) as saver, dspy.context(lm=lm):
        graph = graph_of(edge, saver)
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "submitted", dies)
            with pytest.raises(ValueError, match="killed"):
                graph.invoke({"xs": WORDS}, THREAD)
        assert Journal.submitted is noted
        for number in range(others):
            edge.invoke({"xs": [f"{number} {word}" for word in WORDS]})
        assert graph.invoke(None, THREAD)["ys"] == [word.upper() for word in WORDS]
    assert (len(server.jobs.ids), len(server.bill)) == (1 + others, 8 * (1 + others))
    assert not server.bill.repeated


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5-20251001"])
def test_a_job_that_was_announced_and_not_submitted(
    model: str, tmp_path: Path, server: ModelServer, edge_of: Any
) -> None:
    server.jobs.refuse("upload" if model.startswith("openai") else "submit", 400)
    with savers("sqlite", tmp_path) as saver, dspy.context(lm=server.lm(model, max_tokens=100)):
        graph = graph_of(edge_of(), saver)
        with pytest.raises(Exception, match="400"):
            graph.invoke({"xs": WORDS}, THREAD)
        assert graph.invoke(None, THREAD)["ys"] == [word.upper() for word in WORDS]
        # A third process would have nothing left to do.
        assert graph.invoke(None, THREAD)["ys"] == [word.upper() for word in WORDS]
    assert (len(server.jobs.ids), len(server.bill)) == (1, 8)


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5-20251001"])
def test_a_job_that_was_not_found_is_not_looked_for_again(
    model: str, tmp_path: Path, server: ModelServer, edge_of: Any
) -> None:
    """The second process looks for the job of the first one, three times; later ones do not."""
    server.jobs.refuse("submit", 400)
    edge = edge_of(Twice(), api=BatchAPI(poll=0.01, wait="interrupt"))
    with savers("sqlite", tmp_path) as saver, dspy.context(lm=server.lm(model, max_tokens=100)):
        graph = graph_of(edge, saver)
        with pytest.raises(Exception, match="400"):
            graph.invoke({"xs": WORDS}, THREAD)
        found = graph.invoke(None, THREAD)
        server.jobs.wait_for("list", 3)
        while "__interrupt__" in found:
            found = graph.invoke(Command(resume=True), THREAD)
    assert found["ys"] == ANSWERS
    assert (len(server.jobs.ids), len(server.bill)) == (2, 16)
    with pytest.raises(TimeoutError):
        server.jobs.wait_for("list", 4, timeout=0)


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5-20251001"])
def test_a_job_that_the_list_shows_late_is_found(
    model: str, tmp_path: Path, server: ModelServer, edge_of: Any, monkeypatch: Any
) -> None:
    """A process that ends between two looks has noted nothing: the next one looks for the job again."""
    from mahsm._batches.client import Client
    from mahsm._batches.journal import Journal

    looked, looks = Client.find, list[Any]()

    async def dies(self: Journal, note: Any, id: str) -> Any:
        raise ValueError("killed")

    async def late(self: Client, sent: Any, **given: Any) -> Any:
        looks.append(sent)
        if len(looks) == 2:
            raise ValueError("killed")
        return [] if len(looks) < 5 else await looked(self, sent, **given)

    with savers("sqlite", tmp_path) as saver, dspy.context(lm=server.lm(model, max_tokens=100)):
        graph = graph_of(edge_of(), saver)
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "submitted", dies)
            with pytest.raises(ValueError, match="killed"):
                graph.invoke({"xs": WORDS}, THREAD)
        monkeypatch.setattr(Client, "find", late)
        with pytest.raises(ValueError, match="killed"):
            graph.invoke(None, THREAD)
        assert graph.invoke(None, THREAD)["ys"] == [word.upper() for word in WORDS]
    assert (len(looks), len(server.jobs.ids), len(server.bill)) == (5, 1, 8)


def test_a_run_of_the_same_thread_is_another_one(tmp_path: Path, server: ModelServer, edge_of: Any) -> None:
    with savers("sqlite", tmp_path) as saver:
        graph = graph_of(edge_of(), saver)
        for _ in range(2):
            assert graph.invoke({"xs": WORDS}, THREAD)["ys"] == [word.upper() for word in WORDS]
    assert len(server.jobs.ids) == 2


def test_jobs_leave_no_trace_in_the_states_of_a_thread(
    tmp_path: Path, server: ModelServer, edge_of: Any
) -> None:
    with savers("sqlite", tmp_path) as saver:
        graph = graph_of(edge_of(), saver)
        graph.invoke({"xs": WORDS}, THREAD)
        assert [state.next for state in graph.get_state_history(THREAD)] == [(), ("edge",), ("__start__",)]
        saver.delete_thread("1")
        assert not list(saver.list(THREAD))
