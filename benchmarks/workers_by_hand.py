"""The same work by hand: items in chunks, as tasks of Dask and of Ray, without what an edge does."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from typing import Any

Item = Callable[[dict[str, Any]], Awaitable[int]]


def run_chunk(target: Item, items: Sequence[int], at_a_time: int) -> list[int]:
    """Run the items of a chunk, some at a time. This is the code that a user writes."""

    async def run() -> list[int]:
        room = asyncio.Semaphore(at_a_time)

        async def one(item: int) -> int:
            async with room:
                return await target({"item": item})

        return await asyncio.gather(*(one(item) for item in items))  # noqa: TID251  as users write it

    return asyncio.run(run())


def chunks_of(count: int, size: int) -> list[range]:
    return [range(at, min(count, at + size)) for at in range(0, count, size)]


def seconds_with_dask(client: Any, target: Item, count: int, size: int) -> float:
    """Two chunks at a time in each of the two workers, with 32 items at a time in each."""
    chunks = chunks_of(count, size)
    clock = time.perf_counter()
    futures = client.map(run_chunk, [target] * len(chunks), chunks, [32] * len(chunks), pure=False)
    rows = [row for rows in client.gather(futures) for row in rows]
    seconds = time.perf_counter() - clock
    assert rows == list(range(count))
    return seconds


def has_ray() -> bool:
    return find_spec("ray") is not None


def seconds_with_ray(target: Item, count: int, size: int) -> float:
    """A chunk at a time in each of two workers, with 64 items at a time in each."""
    import ray  # pyright: ignore[reportMissingImports]

    ray_: Any = ray
    ray_.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        run = ray_.remote(run_chunk)
        ray_.get([run.remote(target, chunk, 64) for chunk in chunks_of(256, 64)])
        clock = time.perf_counter()
        found = ray_.get([run.remote(target, chunk, 64) for chunk in chunks_of(count, size)])
        seconds = time.perf_counter() - clock
    finally:
        ray_.shutdown()
    assert [row for rows in found for row in rows] == list(range(count))
    return seconds
