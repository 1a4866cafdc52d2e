"""Run a graph with batch jobs until a kill ends this process.

    python -m tests.edges.batches.worker PLAN

PLAN is a `Plan` as JSON.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

ITEMS = 40


@dataclass(frozen=True)
class Plan:
    """What is run, and where it is saved.

    Attributes:
        base_url: The provider.
        saved: A file of SQLite, or how to connect to PostgreSQL.
        model: The model.
        mode: "sync" or "async".
        thread: The thread's id.
    """

    base_url: str
    saved: str
    model: str
    mode: str
    thread: str = "1"

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", __name__, json.dumps(asdict(self))]


def words() -> list[str]:
    return [f"word {number}" for number in range(ITEMS)]


def answers() -> list[str]:
    return [f"{word.upper()}!" for word in words()]


@contextmanager
def saver(plan: Plan) -> Iterator[Any]:
    if "dbname=" in plan.saved:
        from langgraph.checkpoint.postgres import PostgresSaver

        with PostgresSaver.from_conn_string(plan.saved) as found:
            yield found
        return
    from langgraph.checkpoint.sqlite import SqliteSaver

    with SqliteSaver.from_conn_string(plan.saved) as found:
        yield found


@asynccontextmanager
async def async_saver(plan: Plan) -> AsyncIterator[Any]:
    if "dbname=" in plan.saved:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with AsyncPostgresSaver.from_conn_string(plan.saved) as found:
            yield found
        return
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    async with AsyncSqliteSaver.from_conn_string(plan.saved) as found:
        yield found


def main(plan: Plan) -> None:
    import dspy

    from mahsm import BatchAPI, vmap
    from tests.edges.batches.conftest import Twice
    from tests.edges.batches.test_durability import graph_of

    dspy.configure(
        lm=dspy.LM(plan.model, api_base=plan.base_url, api_key="test", cache=False, max_tokens=100)
    )
    api = BatchAPI(poll=0.02, max_requests=25)
    edge = vmap(Twice(), batch_key="xs", out_key="ys", result="answer", name="edge", batch_api=api)
    config: Any = {"configurable": {"thread_id": plan.thread}}

    async def on_a_loop() -> Any:
        async with async_saver(plan) as found:
            await found.setup()
            graph = graph_of(edge, found)
            given = None if await found.aget_tuple(config) else {"xs": words()}
            print("begun", flush=True)
            return await graph.ainvoke(given, config)

    def in_threads() -> Any:
        with saver(plan) as found:
            found.setup()
            graph = graph_of(edge, found)
            given = None if found.get_tuple(config) else {"xs": words()}
            print("begun", flush=True)
            return graph.invoke(given, config)

    found = asyncio.run(on_a_loop()) if plan.mode == "async" else in_threads()
    print(json.dumps(found["ys"]), flush=True)


if __name__ == "__main__":
    main(Plan(**json.loads(sys.argv[1])))
