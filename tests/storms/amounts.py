"""Much of everything: runs, items, and bytes."""

import asyncio
import gc
import resource
import threading
from typing import Any

from mahsm import parallel, vmap
from tests.model.leftovers import handles, warm_up
from tests.storms.edges import blocking, kinds


def _counts() -> tuple[int, int, int]:
    gc.collect()
    return threading.active_count(), handles(), len(gc.get_objects())


def growth(times: int) -> str:
    """Runs in a row, after which there is no more than before."""
    warm_up()
    edges: list[Any] = [
        *kinds().values(),
        parallel({"a": lambda _: {"a": 1}, "b": lambda _: {"b": 2}}, name="both"),
    ]

    def run(count: int) -> None:
        for number in range(count):
            edge = edges[number % len(edges)]
            if number % 2:
                edge.invoke({"xs": [1, 2, 3]})
            else:
                asyncio.run(edge.ainvoke({"xs": [1, 2, 3]}))

    run(max(100, times // 4))
    before = _counts()
    run(times)
    after = _counts()
    assert after[0] <= before[0], f"{after[0]} threads, {before[0]} before"
    assert after[1] <= before[1], f"{after[1]} files, {before[1]} before"
    assert after[2] <= before[2] + 200 + times // 10, f"{after[2]} objects, {before[2]} before"
    return f"{times} runs: {after[2] - before[2]:+} objects"


def items(times: int) -> str:
    """Very many items."""

    async def target(state: dict[str, Any]) -> int:
        return state["item"] * 2

    edge = vmap(target, batch_key="xs", out_key="ys", max_concurrency=64)
    ys = edge.invoke({"xs": list(range(times))})["ys"]
    assert len(ys) == times
    assert all(y == 2 * x for x, y in enumerate(ys))
    return f"{times} items, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB at most"


def megabytes(times: int) -> str:
    """Items of 10 MB each, which come out as they are, and are not copied for each call."""
    big = [bytes([number % 250]) * 10_000_000 for number in range(times)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def same(state: dict[str, Any]) -> Any:
        return state["item"]

    ys = vmap(same, batch_key="xs", out_key="ys").invoke({"xs": big})["ys"]
    assert all(x is y for x, y in zip(big, ys, strict=True))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 100 + times, f"the process has grown by {grown:.0f} MB"
    assert vmap(blocking, batch_key="xs", out_key="ys").invoke({"xs": [1]}) == {"ys": [2]}
    return f"{times} items, {grown:+.0f} MB"
