"""A fan-out whose finished items are kept in PostgreSQL:
`DATABASE_URL=postgresql://... python examples/postgres.py`.

The first run stops in the middle, as if the process had died; another one goes on. Without `DATABASE_URL` the
items are kept in memory, which is enough to see it once.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypedDict
from uuid import uuid4

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, StateGraph

from mahsm import connect, vmap


class State(TypedDict):
    pages: list[int]
    texts: list[str]


down = [True]
fetched: list[int] = []


def fetch(page: int) -> str:
    if page == 3 and down:
        down.clear()
        raise ConnectionError("the site is down")
    fetched.append(page)
    return f"page {page}"


@contextmanager
def checkpointer() -> Generator[Any, None, None]:
    address = os.environ.get("DATABASE_URL")
    if address is None:
        yield InMemorySaver()
        return
    with PostgresSaver.from_conn_string(address) as saver:
        saver.setup()
        yield saver


texts = vmap(fetch, batch_key="pages", out_key="texts", max_concurrency=1)
config: Any = {"configurable": {"thread_id": str(uuid4())}}
with checkpointer() as saver:
    graph = connect(StateGraph(State), START, texts, END).compile(checkpointer=saver)
    try:
        graph.invoke({"pages": [1, 2, 3, 4]}, config)
    except ConnectionError as error:
        print(error, sorted(fetched))
    print(graph.invoke(None, config)["texts"], sorted(fetched))

# Output:
# the site is down [1, 2]
# ['page 1', 'page 2', 'page 3', 'page 4'] [1, 2, 3, 4]
