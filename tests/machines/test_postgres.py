"""Graphs over PostgreSQL: failures, questions, history and many items come out as without a database.

Each run has a connection of its own, as after a restart.
"""

import asyncio
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from mahsm import connect, vmap
from tests.helpers import MODES, thread


class State(TypedDict):
    xs: list[Any]
    ys: Annotated[list[Any], operator.add]


class OverPostgres:
    """A thread of a graph, kept in the database."""

    def __init__(self, database: str, mode: str, builder: StateGraph[Any, Any, Any, Any]) -> None:
        self.database, self.mode, self.builder = database, mode, builder
        self.config = thread(str(uuid4()), max_concurrency=1)

    def __call__(self, given: Any, **config: Any) -> Any:
        """Run the graph."""
        given_config = self.config | config
        return self._with(
            lambda graph: graph.invoke(given, given_config), lambda graph: graph.ainvoke(given, given_config)
        )

    def history(self) -> list[Any]:
        async def read(graph: Any) -> list[Any]:
            return [snapshot async for snapshot in graph.aget_state_history(self.config)]

        return self._with(lambda graph: [*graph.get_state_history(self.config)], read)

    def _with(self, use: Callable[[Any], Any], use_later: Callable[[Any], Any]) -> Any:
        from langgraph.checkpoint.postgres import PostgresSaver
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        if self.mode == "sync":
            with PostgresSaver.from_conn_string(self.database) as saver:
                saver.setup()
                return use(self.builder.compile(checkpointer=saver))

        async def main() -> Any:
            async with AsyncPostgresSaver.from_conn_string(self.database) as saver:
                await saver.setup()
                return await use_later(self.builder.compile(checkpointer=saver))

        return asyncio.run(main())


def by_send(node: Any) -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State)
    builder.add_node("one", node)
    builder.add_conditional_edges(
        START, lambda state: [Send("one", {"item": x}) for x in state["xs"]], ["one"]
    )
    return builder


def by_edge(node: Any, **options: Any) -> StateGraph[Any, Any, Any, Any]:
    return connect(
        StateGraph(State), START, vmap(node, batch_key="xs", out_key=["ys"], name="one", **options), END
    )


BUILDERS = [by_send, by_edge]


@pytest.mark.parametrize("mode", MODES)
def test_what_has_finished_does_not_run_again(database: str, mode: str) -> None:
    ends: list[Any] = []
    for build in BUILDERS:
        called: list[int] = []

        def double(state: dict[str, Any], called: list[int] = called) -> dict[str, Any]:
            called.append(state["item"])
            if called.count(3) == 1 and state["item"] == 3:
                raise ConnectionError("three")
            return {"ys": [state["item"] * 2]}

        graph = OverPostgres(database, mode, build(double))
        with pytest.raises(ConnectionError, match="three"):
            graph({"xs": [1, 2, 3]})
        state = graph(None)
        ends.append((state, called, [(snapshot.values, snapshot.next) for snapshot in graph.history()]))
    assert ends[0][:2] == ends[1][:2] == ({"xs": [1, 2, 3], "ys": [2, 4, 6]}, [1, 2, 3, 3])
    assert ends[1][2] == [
        ({"xs": [1, 2, 3], "ys": [2, 4, 6]}, ()),
        ({"xs": [1, 2, 3], "ys": []}, ("one",)),
        ({"ys": []}, ("__start__",)),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_questions_are_answered_one_by_one(database: str, mode: str) -> None:
    ends: list[Any] = []
    for build in BUILDERS:
        answered: list[str] = []

        def ask(state: dict[str, Any], answered: list[str] = answered) -> dict[str, Any]:
            said = interrupt(state["item"])
            answered.append(state["item"])
            return {"ys": [f"{state['item']} {said}"]}

        graph = OverPostgres(database, mode, build(ask))
        state = graph({"xs": ["a", "b", "c"]})
        asked = [sorted(question.value for question in state["__interrupt__"])]
        while questions := state.get("__interrupt__"):
            first = min(questions, key=lambda question: question.value)
            state = graph(Command(resume={first.id: "yes"}))
            asked.append(sorted(question.value for question in state.get("__interrupt__", [])))
        ends.append((state["ys"], asked, answered))
    assert ends[0] == ends[1]
    assert ends[0] == (["a yes", "b yes", "c yes"], [["a", "b", "c"], ["b", "c"], ["c"], []], ["a", "b", "c"])


@pytest.mark.parametrize("mode", MODES)
def test_thousands_of_items(database: str, mode: str) -> None:
    """Their results are saved in parts, and the rest of them after a failure near the end."""
    called: list[int] = []

    def double(state: dict[str, Any]) -> dict[str, Any]:
        called.append(state["item"])
        if state["item"] == 4990 and called.count(4990) == 1:
            raise ConnectionError("late")
        return {"ys": [state["item"] * 2]}

    graph = OverPostgres(database, mode, by_edge(double))
    with pytest.raises(ConnectionError, match="late"):
        graph({"xs": list(range(5000))}, max_concurrency=8)
    assert graph(None, max_concurrency=8)["ys"] == [2 * x for x in range(5000)]
    assert len(called) <= 5000 + 1 + 8, "the failed one, and what ran beside it"


def test_the_example_runs_over_postgres(database: str) -> None:
    example = Path(__file__).parents[2] / "examples" / "postgres.py"
    environment = {**os.environ, "DATABASE_URL": database}
    done = subprocess.run(
        [sys.executable, example], env=environment, capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.splitlines()[-1] == "['page 1', 'page 2', 'page 3', 'page 4'] [1, 2, 3, 4]"
