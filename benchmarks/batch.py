"""Calls as batch jobs: how many jobs and HTTP requests, what they cost in CPU and memory, whether `usage()`
is the bill, and what kills lose; and what `warm=1` does for a provider's prompt cache.

The provider is a server on loopback, in a process of its own where CPU or memory of the client is measured.
"""

import asyncio
import gc
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
from dspy import lm15

from benchmarks import report, warm
from benchmarks.model_server import PRICES, Server, served
from benchmarks.report import Figure
from mahsm import BatchAPI, usage, vmap
from mahsm.testing import BatchJobs, Bill, ModelServer

Rows = list[list[str]]
Measured = tuple[list[Figure], Rows, dict[str, Any]]

MODEL = "openai/gpt-4o-mini"
AT_ONCE = 64

ask = dspy.Predict("item -> answer")


class Thrice(dspy.Module):
    """Three calls, each of the answer to the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("item -> answer")

    async def aforward(self, item: str) -> Any:
        found = await self.ask.acall(item=item)
        found = await self.ask.acall(item=found.answer + "!")
        return await self.ask.acall(item=found.answer + "?")


def edge_of(target: Any, poll: float = 0.05) -> Any:
    return vmap(
        target, batch_key="xs", out_key="ys", result="answer", name="answers", batch_api=BatchAPI(poll=poll)
    )


def lm_of(server: Server) -> Any:
    return dspy.LM(MODEL, api_base=server.base_url, api_key="test", cache=False, num_retries=0)


def words(count: int) -> list[str]:
    return [f"word {number}" for number in range(count)]


def counted(items: int, of_three: int) -> Measured:
    """Jobs, HTTP requests, and the ledger beside the bill."""
    with served() as server, dspy.context(lm=lm_of(server)), usage() as used:
        assert edge_of(ask).invoke({"xs": words(items)})["ys"] == [word.upper() for word in words(items)]
        once = server.report()
        ys = edge_of(Thrice()).invoke({"xs": words(of_three)})["ys"]
        assert ys == [f"{word.upper()}!?" for word in words(of_three)]
        both = server.report()
    assert both.charges == items + 3 * of_three
    assert used.usd is not None
    figures = [
        Figure(f"{items:,} items of one call: jobs", len(once.jobs), 1, "jobs"),
        Figure(f"{items:,} items of one call: HTTP requests beyond polls", once.beyond_polls, 5, "requests"),
        Figure(f"{of_three:,} items of three calls: jobs", len(both.jobs) - len(once.jobs), 3, "jobs"),
        Figure("usage() and the bill differ by", abs(used.usd - both.usd), 1e-9, "US dollars"),
    ]
    rows = [
        ["HTTP requests", "to begin with", "with three calls"],
        *(
            [path, f"{once.requests.get(path, 0)}", f"{count - once.requests.get(path, 0)}"]
            for path, count in both.requests.items()
        ),
        ["US dollars, of the bill", f"{once.usd:.6f}", f"{both.usd - once.usd:.6f}"],
    ]
    return figures, rows, {"once": once.__dict__, "both": both.__dict__, "usd": used.usd}


class Instant:
    """An engine for DSPy that answers immediately."""

    def complete(self, request: Any) -> Any:
        text = "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]"
        return lm15.Response(
            None,
            "gpt-4o-mini",
            lm15.Message.assistant(text),
            "stop",
            lm15.Usage(input_tokens=100, output_tokens=10),
        )

    def close(self) -> None:
        """No-op: there is no connection."""


class InstantAwaited(Instant):
    """The same for code that awaits."""

    async def complete(self, request: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().complete(request)

    async def aclose(self) -> None:
        """No-op: there is no connection."""


class ByHand(Instant):
    """An engine as one writes it by hand: it submits so many calls as one job, and keeps nothing.

    Args:
        server: The provider.
        count: The number of calls.
    """

    def __init__(self, server: Server, count: int) -> None:
        config = lm15.RouterConfig(api_keys={"openai": "test"}, base_urls={"openai": server.base_url})
        self._lm: Any = lm15.AsyncLMRouter(config).lm(MODEL.replace("/", ":"))
        self._count = count
        self._asked: list[tuple[Any, asyncio.Future[Any]]] = []

    async def complete(self, request: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        answer = asyncio.get_running_loop().create_future()
        self._asked.append((replace(request, model="gpt-4o-mini"), answer))
        if len(self._asked) == self._count:
            await self._submit()
        return await answer

    async def _submit(self) -> None:
        asked, self._asked = self._asked, []
        requests = tuple(request for request, _ in asked)
        job = await self._lm.batch_submit(lm15.BatchRequest(model="gpt-4o-mini", requests=requests))
        while not job.done:
            await asyncio.sleep(0.05)
            job = await self._lm.batch_status(job.id)
        for entry, (_, answer) in zip(await self._lm.batch_results(job.id), asked, strict=True):
            answer.set_result(entry.response)

    async def aclose(self) -> None:
        """No-op: the connection ends with the process."""


async def by_dspy(items: int, at_once: int = AT_ONCE) -> None:
    """The module in tasks, without an edge."""
    slots = asyncio.Semaphore(at_once)

    async def one(item: str) -> None:
        async with slots:
            await ask.acall(item=item)

    async with asyncio.TaskGroup() as group:
        for item in words(items):
            group.create_task(one(item))


def cpu_rows(server: Server, items: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """What is measured: a model, and what to run with it."""
    xs = {"xs": words(items)}
    plain = vmap(ask, batch_key="xs", out_key="ys", result="answer", max_concurrency=AT_ONCE)

    def instant(engine: Any = None) -> Any:
        engine = engine or InstantAwaited()
        return dspy.LM(MODEL, engine=Instant(), async_engine=engine, cache=False, num_retries=0)

    return {
        "the module in tasks, an engine that answers immediately": (
            instant,
            lambda: asyncio.run(by_dspy(items)),
        ),
        "the module in tasks, one job by hand": (
            lambda: instant(ByHand(server, items)),
            lambda: asyncio.run(by_dspy(items, items)),
        ),
        "vmap, an engine that answers immediately": (instant, lambda: asyncio.run(plain.ainvoke(xs))),
        "vmap(batch_api=), awaited": (
            lambda: lm_of(server),
            lambda: asyncio.run(edge_of(ask).ainvoke(xs)),
        ),
        "vmap(batch_api=), invoked": (lambda: lm_of(server), lambda: edge_of(ask).invoke(xs)),
    }


def cpu(items: int, rounds: int) -> Measured:
    """CPU of this process for a request, beside that of DSPy alone and of a job by hand."""
    with served() as server:
        runs = cpu_rows(server, items)
        found: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds + 1):
            for name, (lm, run) in runs.items():
                gc.collect()
                with dspy.context(lm=lm()):
                    clock = time.process_time()
                    run()
                    seconds = time.process_time() - clock
                if number:  # the first round imports, and fills caches
                    found[name].append(1e3 * seconds / items)
    least = {name: min(times) for name, times in found.items()}
    floor, by_hand, in_vmap, *ours = least.values()
    # What an edge costs and what DSPy's client for batches costs is in both.
    added = max(ours) - in_vmap - (by_hand - floor)
    figures = [
        Figure("CPU of a request, beyond DSPy with an instant engine", max(ours) - floor, 0.5, "ms"),
        Figure("CPU of a request, beyond DSPy with a job by hand", max(ours) - by_hand, 0.5, "ms"),
        Figure("CPU of a request, beyond a vmap and DSPy's client for batches", added, 0.5, "ms"),
    ]
    rows = [["CPU ms of a request", "least"], *([name, f"{ms:.3f}"] for name, ms in least.items())]
    return figures, rows, found


def resident() -> int:
    """Bytes of memory of this process."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def waiting_bytes(items: int) -> float:
    """Memory of an item that waits for a job, over the state before; for a process of its own."""
    grown: list[float] = []
    with served(duration=1e9) as server, dspy.context(lm=lm_of(server)):
        edge, xs = edge_of(ask), words(items)

        def measure(job: int, before: int) -> None:
            server.wait_for_jobs(job)
            time.sleep(0.5)  # until the answer to the submission is read
            grown.append((resident() - before) / items)
            server.finish()

        for job, given in enumerate((xs[:100], xs), 1):
            watch = threading.Thread(target=measure, args=(job, resident()), daemon=True)
            watch.start()
            edge.invoke({"xs": given})
            watch.join()
    return grown[-1]


class Holds(Instant):
    """An engine that holds its answers back until so many are asked for, and memory is measured."""

    def __init__(self, items: int) -> None:
        self.left = items
        self.before = resident()
        self.grown = 0.0
        self._measured = asyncio.Event()
        self._items = items

    async def complete(self, request: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.left -= 1
        if not self.left:
            self.grown = (resident() - self.before) / self._items
            self._measured.set()
        await self._measured.wait()
        return super().complete(request)

    async def aclose(self) -> None:
        """No-op: there is no connection."""


def waiting_bytes_of_dspy(items: int) -> float:
    """Memory of a call of the same module that waits, in tasks; for a process of its own."""
    grown = 0.0
    for count in (100, items):
        held = Holds(count)
        with dspy.context(lm=dspy.LM(MODEL, engine=Instant(), async_engine=held, cache=False)):
            asyncio.run(by_dspy(count, count))
        grown = held.grown
    return grown


def memory(items: int) -> Measured:
    """Memory of the client while all items wait for one job, beside that of DSPy's calls that wait."""

    def kilobytes(function: str) -> float:
        code = f"from benchmarks.batch import {function}; print({function}({items}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return float(done.stdout) / 1e3

    ours, dspys = kilobytes("waiting_bytes"), kilobytes("waiting_bytes_of_dspy")
    rows = [
        [f"{items:,} that wait", "kB each"],
        ["items of vmap(batch_api=)", f"{ours:.1f}"],
        ["calls of the module in tasks", f"{dspys:.1f}"],
    ]
    return [Figure("memory of an item that waits", ours, 20, "kB")], rows, {"ours": ours, "DSPy": dspys}


def killed(saver: str, address: str, model: str, mode: str, kills: int, seed: int) -> dict[str, Any]:
    """Runs of two rounds, which are killed so many times in all."""
    from tests.edges.batches.conftest import shout
    from tests.edges.batches.killing import run_killed
    from tests.edges.batches.worker import ITEMS, Plan, answers

    found: dict[str, Any] = {"saver": saver, "model": model, "mode": mode, "runs": 0, "kills": 0}
    found |= {"twice": 0, "lost": 0, "equal": True}
    while found["kills"] < kills:  # a run may end before it is killed
        jobs, thread = BatchJobs(validation=0.1, duration=0.3, finalizing=0.1), f"{seed}.{found['runs']}"
        with ModelServer(shout, jobs=jobs, bill=Bill(PRICES)) as server:
            plan = Plan(server.base_url, address, model, mode, thread=thread)
            left, drawn = kills - found["kills"], 1_000 * seed + found["runs"]
            done = run_killed(plan, kills=left, seed=drawn, seconds=1.0)
            found["runs"] += 1
            found["kills"] += done.kills
            found["twice"] += len(server.bill.repeated)
            found["lost"] += max(0, len(server.bill) - 2 * ITEMS)
            found["equal"] &= done.ys == answers()
    return found


def kills(each: int) -> Measured:
    """Processes that are killed at random moments, this many for each saver, mode and provider."""
    from tests.kills.database import postgres, programs

    with ExitStack() as stack:
        savers = {"SQLite": f"{stack.enter_context(tempfile.TemporaryDirectory())}/saved.sqlite"}
        if programs() is None:
            print("no PostgreSQL; Debian has it in the package postgresql")
        else:
            savers["PostgreSQL"] = stack.enter_context(postgres())
        models = ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5-20251001"]
        plans = list(itertools.product(savers.items(), models, ("sync", "async")))
        found = [killed(*saver, model, mode, each, seed) for seed, (saver, model, mode) in enumerate(plans)]
    total = {name: sum(one[name] for one in found) for name in ("kills", "twice", "lost")}
    figures = [
        Figure("kills at random moments", total["kills"], each * len(found), "kills", at_least=True),
        Figure("kills: requests paid for twice", total["twice"], 0, "requests"),
        Figure("kills: answers paid for and lost", total["lost"], 0, "answers"),
        Figure("kills: runs with another result", sum(not one["equal"] for one in found), 0, "runs"),
    ]
    rows = [
        ["saver", "model", "", "runs", "kills", "paid for twice", "lost", "results equal"],
        *([str(value) for value in one.values()] for one in found),
    ]
    return figures, rows, {"runs": found}


def main(*, quick: bool) -> int:
    parts: dict[str, report.Part] = {
        "jobs": lambda: counted(*((200, 20) if quick else (10_000, 1_000))),
        "cpu": lambda: cpu(*((100, 1) if quick else (2_000, 5))),
        "memory": lambda: memory(200 if quick else 10_000),
        "kills": lambda: kills(1 if quick else 5),
        "warm caches": lambda: warm.run(quick=quick),
    }
    return report.run("batch", parts, quick=quick)
