"""The edges that storms run, and the check that the process still works."""

import asyncio
import time
from typing import Any

from mahsm import Edge, RateLimit, Retry, vmap
from tests.model.leftovers import background_tasks, wait_for_threads

ITEMS = list(range(60))
DOUBLED = {"ys": [item * 2 for item in ITEMS]}
WAIT = 0.001
"""Seconds that a call takes."""


def blocking(state: dict[str, Any]) -> int:
    time.sleep(WAIT)
    return state["item"] * 2


async def waiting(state: dict[str, Any]) -> int:
    await asyncio.sleep(WAIT)
    return state["item"] * 2


def _rows(target: Any) -> Edge:
    inner = vmap(target, batch_key="row", out_key="ys", max_concurrency=4)
    outer = vmap(
        inner,
        batch_key="rows",
        out_key="ys",
        item_to_state=lambda row: {"row": row},
        result="ys",
        max_concurrency=2,
    )
    return vmap(
        outer,
        batch_key="xs",
        out_key="ys",
        item_to_state=lambda item: {"rows": [[item]]},
        result=lambda update: update["ys"][0][0],
        max_concurrency=4,
    )


def kinds() -> dict[str, Edge]:
    """Edges that double their items."""
    limit = RateLimit("storms", rps=20_000)
    return {
        "waiting": vmap(waiting, batch_key="xs", out_key="ys"),
        "blocking": vmap(blocking, batch_key="xs", out_key="ys"),
        "nested": _rows(waiting),
        "nested-blocking": _rows(blocking),
        "limited": vmap(waiting, batch_key="xs", out_key="ys", rate_limit=limit, retry=Retry(base=0)),
        "limited-blocking": vmap(blocking, batch_key="xs", out_key="ys", rate_limit=limit, timeout=60),
    }


def check_alive(edge: Edge) -> None:
    """Check that nothing of the run before is left, and that the next one is right."""
    wait_for_threads()
    deadline = time.monotonic() + 10
    while background_tasks():
        assert time.monotonic() < deadline, f"{background_tasks()} tasks are left on the background loop"
    assert edge.invoke({"xs": ITEMS}) == DOUBLED
