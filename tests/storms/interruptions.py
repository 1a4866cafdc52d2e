"""Runs that are cut short at random instants."""

import asyncio
import os
import random
import signal
import threading
import time
from typing import Any

from tests.model.leftovers import handles, tasks_left, warm_up
from tests.storms.edges import DOUBLED, ITEMS, check_alive, kinds


def cancels(times: int) -> str:
    """Tasks are cancelled."""
    chance, cancelled = random.Random(1), 0
    edges = kinds()
    warm_up()

    async def one(edge: Any) -> bool:
        task = asyncio.get_running_loop().create_task(edge.ainvoke({"xs": ITEMS}))
        await asyncio.sleep(chance.uniform(0, 0.04))
        task.cancel()
        try:
            assert await task == DOUBLED
        except asyncio.CancelledError:
            return True
        finally:
            await tasks_left()
        return False

    for name, edge in edges.items():
        asyncio.run(edge.ainvoke({"xs": ITEMS}))
        before = handles()
        for _ in range(max(1, times // len(edges))):
            cancelled += asyncio.run(one(edge))
        check_alive(edge)
        assert handles() <= before, f"{name}: {handles()} files are open, {before} were before"
    return f"{cancelled} cancelled"


def interrupts(times: int) -> str:
    """Ctrl-C comes in the main thread."""
    chance, sent, interrupted = random.Random(2), 0, 0
    # A process that a shell began in the background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for edge in kinds().values():
        check_alive(edge)
        for _ in range(max(1, times // 6)):
            seconds = chance.uniform(0.002, 0.03)
            timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
            began = time.monotonic()
            sent += 1
            try:
                try:
                    timer.start()
                    edge.invoke({"xs": ITEMS * 5})
                finally:
                    timer.join()  # if it comes only now, it comes in here
                    time.sleep(0.001)
            except KeyboardInterrupt:
                interrupted += 1
            assert time.monotonic() - began < 60, "the run went on after Ctrl-C"
            check_alive(edge)
    assert interrupted == sent, f"{interrupted} runs of {sent} were interrupted"
    return f"{interrupted} interrupted"
