"""Rows of `python -m benchmarks jit`: an ensemble of members that block, called and awaited."""

import asyncio
import time
from typing import Any

from benchmarks.report import Figure
from mahsm.operators import EnsembleOperator, op

BLOCKS = 0.05
"""Seconds that each member blocks."""


def blocks(x: Any) -> Any:
    time.sleep(BLOCKS)
    return x


def ensembles(rounds: int) -> tuple[list[Figure], list[list[str]], dict[str, float]]:
    """Eight members called, and 32 awaited: the quickest of the rounds, in ms."""
    eight, many = (EnsembleOperator([op(blocks)] * count) for count in (8, 32))
    found: dict[str, list[float]] = {
        "8 blocking members of 50 ms, called": [],
        "32 blocking members of 50 ms, awaited": [],
    }
    called, awaited = found.values()
    for _ in range(rounds + 1):
        called.append(_timed(lambda: eight(1)))
        awaited.append(_timed(lambda: asyncio.run(many.acall(1))))
    best = {name: min(each) for name, each in found.items()}
    figures = [Figure(name, ms, most, "ms") for (name, ms), most in zip(best.items(), (55, 60), strict=True)]
    return figures, [["ensembles", "ms"], *([name, f"{ms:.1f}"] for name, ms in best.items())], best


def _timed(run: Any) -> float:
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) * 1000
