"""What a direct call adds to a call of DSPy's client: CPU, and the time until the first answer of a process.

CPU figures are the best of many rounds, in which the calls take turns.
"""

import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import dspy

from benchmarks import report
from benchmarks.report import Figure
from mahsm import models
from mahsm.context import with_context
from mahsm.testing import ModelServer

Rows = list[list[str]]


class AtOnce(dspy.BaseLM):
    """Answers at once, so that the rest is DSPy's own CPU."""

    def forward(self, prompt: Any = None, messages: Any = None, **kwargs: Any) -> Any:
        choice = SimpleNamespace(message=SimpleNamespace(content="yes"), finish_reason="stop")
        return SimpleNamespace(
            choices=[choice], usage={"prompt_tokens": 1, "completion_tokens": 1}, model="m"
        )


def in_turn(functions: dict[str, Callable[[], Any]], rounds: int, calls: int) -> dict[str, float]:
    """CPU microseconds of each call, the best of so many rounds."""
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(rounds):
        for name, function in functions.items():
            began = time.process_time()
            for _ in range(calls):
                function()
            best[name] = min(best[name], (time.process_time() - began) / calls * 1e6)
    return best


def cpu(rounds: int, calls: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    lm = AtOnce("at-once/model", cache=False)
    ask = models.instance(lm)

    def in_context() -> None:
        with with_context(models={"temperature": 0.5}):
            ask("q")

    plain, by_http = "a dspy.BaseLM that answers at once", "dspy.LM over HTTP"
    with ModelServer("yes") as server:
        bound = models.instance("openai/m", api_base=server.base_url, api_key="k", cache=False, num_retries=0)
        client = server.lm("openai/m")
        found = in_turn(
            {
                plain: lambda: lm("q"),
                "a binding of it": lambda: ask("q"),
                "models(...) of it": lambda: models(lm, "q"),
                "a binding of it in a block of its own": in_context,
                by_http: lambda: client("q"),
                "a binding over HTTP": lambda: bound("q"),
            },
            rounds,
            calls,
        )
    own = found["a binding of it"] - found[plain]
    rows = [["call", "CPU us"], *([name, f"{us:.0f}"] for name, us in found.items())]
    return (
        [
            Figure("own CPU of a binding / the model alone", own / found[plain], 50 / 65, "x"),
            Figure(
                "CPU over HTTP, binding / dspy.LM", found["a binding over HTTP"] / found[by_http], 1.1, "x"
            ),
        ],
        rows,
        found,
    )


DSPY = """
import dspy
dspy.LM("openai/m", api_base=URL, api_key="k", cache=False, num_retries=0)("q")
"""
MAHSM = """
from mahsm import models
models("openai/m", "q", api_base=URL, api_key="k", cache=False, num_retries=0)
"""


def first(rounds: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    """CPU seconds of a process that makes one call."""
    best = {"dspy": float("inf"), "mahsm": float("inf")}
    with ModelServer("yes") as server:
        for _ in range(rounds):
            for name, code in (("dspy", DSPY), ("mahsm", MAHSM)):
                whole = f"URL = {server.base_url!r}\n{code}\nimport time\nprint(time.process_time())"
                done = subprocess.run(
                    [sys.executable, "-c", whole], capture_output=True, text=True, check=True
                )
                best[name] = min(best[name], float(done.stdout))
    ratio = best["mahsm"] / best["dspy"]
    rows = [
        ["first call of a process", "CPU s"],
        *([name, f"{seconds:.2f}"] for name, seconds in best.items()),
    ]
    return [Figure("first call, mahsm / DSPy", ratio, 1.1, "x")], rows, best


def main(*, quick: bool) -> int:
    warnings.filterwarnings("ignore", "Implementing custom LMs")
    dspy.configure_cache(enable_disk_cache=False)
    parts: dict[str, report.Part] = {
        "cpu": lambda: cpu(3, 10) if quick else cpu(60, 50),
        "first": lambda: first(1 if quick else 20),
    }
    return report.run("models", parts, quick=quick)
