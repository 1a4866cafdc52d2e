"""Graphs over PostgreSQL: failures, questions, history and many items, as without a database."""

import asyncio
import itertools
import operator
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from mahsm import connect, vmap
from tests.helpers import MODES, thread

pytest.importorskip("langgraph.checkpoint.postgres", reason="no langgraph-checkpoint-postgres; it is in the dev dependencies")


class State(TypedDict):
    xs: list[int]
    ys: Annotated[list[Any], operator.add]


Calls = Callable[..., Any]
_threads = (f"postgres {number}" for number in itertools.count())


def over_postgres(database: str, mode: str, build: Callable[[], StateGraph[Any, Any, Any, Any]], use: Callable[[Any, Calls], Any]) -> Any:
    """Compile a graph over a connection, as often as `use` calls for it, and give what `use` gives.

    `use(graph, call)` is a generator: it yields what to run next, an input, and is sent what came of it; an error is thrown.
    """
    from langgraph.checkpoint.postgres import PostgresSaver
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    config = thread(next(_threads), max_concurrency=1)
    if mode == "sync":
        with PostgresSaver.from_conn_string(database) as saver:
            saver.setup()
            graph = build().compile(checkpointer=saver)
            return use(lambda given: graph.invoke(given, config), lambda: graph.get_state(config, subgraphs=True))

    async def main() -> Any:
        async with AsyncPostgresSaver.from_conn_string(database) as saver:
            await saver.setup()
            graph = build().compile(checkpointer=saver)
