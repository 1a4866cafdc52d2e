"""What items in other processes cost: CPU, time, memory, and what kills lose. Needs `distributed`."""

import asyncio
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import workers_by_hand as by_hand
from benchmarks.report import Figure
from mahsm import vmap
from mahsm.data import sinks
from mahsm.errors import EdgeError

Rows = list[list[str]]
Measured = tuple[list[Figure], Rows, dict[str, Any]]

WIDTH = 128
CHUNK = 500
"""Items of a chunk, by hand."""


def installed() -> bool:
    return find_spec("distributed") is not None


async def same(state: dict[str, Any]) -> int:
    return state["item"]


async def waits(state: dict[str, Any]) -> int:
    await asyncio.sleep(0.05)
    return state["item"]


async def begins(state: dict[str, Any]) -> int:
    """Wait, after a note that the item has begun."""
    with open(state["notes"], "a") as notes:  # noqa: ASYNC230  microseconds
        notes.write(f"{state['item']}\n")
    await asyncio.sleep(0.02)
    return state["item"]


@contextmanager
def cluster() -> Iterator[Any]:
    """A client of two workers with two threads each, on loopback."""
    import distributed

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (
            distributed.LocalCluster(
                n_workers=2, threads_per_worker=2, dashboard_address=None, silence_logs=60
            ) as local,
            distributed.Client(local) as client,
        ):
            yield client


def edge_of(target: Any, executor: Any, **options: Any) -> Any:
    return vmap(
        target, batch_key="xs", out_key="ys", max_concurrency=WIDTH, executor=executor, name="edge", **options
    )


def cpu_of(client: Any) -> float:
    """CPU seconds of the workers."""
    times = client.run(lambda: os.times()[:2])
    return sum(map(sum, times.values()))


@dataclass
class Spent:
    """Seconds of CPU of this process and of the workers, and on the clock."""

    client: float = 0.0
    workers: float = 0.0
    wall: float = 0.0

    @property
    def cpu(self) -> float:
        return self.client + self.workers


@contextmanager
def spent(client: Any = None) -> Iterator[Spent]:
    seconds = Spent()
    workers = cpu_of(client) if client else 0.0
    own, clock = time.process_time(), time.perf_counter()
    yield seconds
    seconds.wall, seconds.client = time.perf_counter() - clock, time.process_time() - own
    seconds.workers = cpu_of(client) - workers if client else 0.0


def alone(count: int) -> None:
    """Run the edge in this process."""
    asyncio.run(edge_of(same, None).ainvoke({"xs": list(range(count))}))


def overhead(count: int) -> Measured:
    """Trivial items: the client's CPU, and all CPU beyond that of one process."""
    items = list(range(count))
    with cluster() as client:
        edge = edge_of(same, client)
        edge.invoke({"xs": items[:1000]})
        with spent(client) as workers:
            found = edge.invoke({"xs": items})["ys"]
        # Two processes share caches, and perhaps a core: that alone makes an item dearer.
        addresses = list(client.scheduler_info()["workers"])
        with spent(client) as two:
            client.gather(
                [client.submit(alone, count // 2, workers=[each], pure=False) for each in addresses]
            )
        with spent(client) as hand:
            by_hand.seconds_with_dask(client, same, count, CHUNK)
    with spent() as one:
        alone(count)
    rows = {
        "two Dask workers": workers,
        "two Dask workers, by hand": hand,
        "two processes, half of the items each": two,
        "one process": one,
    }
    us = 1e6 / count
    table = [["where", "client, CPU us of an item", "workers, CPU us", "seconds"]]
    table += [
        [where, f"{each.client * us:.1f}", f"{each.workers * us:.1f}", f"{each.wall:.1f}"]
        for where, each in rows.items()
    ]
    figures = [
        Figure(
            f"{count:,} items over two Dask workers: in order", float(found == items), 1, "", at_least=True
        ),
        Figure("CPU of the client for a million items", workers.client * us, 5, "s"),
        Figure("CPU of all for an item, above one process", (workers.cpu - one.cpu) * us, 8, "us"),
        Figure("CPU of all for an item, above two processes", (workers.cpu - two.cpu) * us, 8, "us"),
    ]
    return figures, table, {where: asdict(each) for where, each in rows.items()}


def pace(count: int) -> Measured:
    """Items that wait, 64 for each worker, as a multiple of the least time."""
    items, least = list(range(count)), count * 0.05 / WIDTH
    with cluster() as client:
        edge = edge_of(waits, client)
        edge.invoke({"xs": items[: 4 * WIDTH]})
        ratios: dict[str, float] = {}
        for where, one in {"two Dask workers": edge, "one process": edge_of(waits, None)}.items():
            clock = time.perf_counter()
            asyncio.run(one.ainvoke({"xs": items}))
            ratios[where] = (time.perf_counter() - clock) / least
        ratios["Dask by hand"] = by_hand.seconds_with_dask(client, waits, count, CHUNK) / least
    if by_hand.has_ray() and count > CHUNK:
        ratios["Ray by hand"] = by_hand.seconds_with_ray(waits, count, CHUNK) / least
    table = [["where", "seconds / least"], *([where, f"{ratio:.3f}"] for where, ratio in ratios.items())]
    bound = max(1.10, ratios["one process"])
    return (
        [Figure(f"{count:,} items of 50 ms: seconds / least", ratios["two Dask workers"], bound, "x")],
        table,
        ratios,
    )


FLAT = """
import json, resource, sys
from benchmarks.executors import cluster, edge_of, same
from mahsm.data import sinks, stream

if __name__ == "__main__":
    rows, out = sys.argv[1:]
    with cluster() as client:
        edge_of(same, client).invoke({"xs": [1, 2, 3]})
        start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        edge_of(same, client, sink=sinks.Jsonl(out)).invoke({"xs": stream(rows)})
        print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) / 1024))
"""


def flat(count: int) -> Measured:
    """The client's memory, with a stream as the batch and a sink for the results."""
    with tempfile.TemporaryDirectory() as name:
        rows, out = Path(name) / "rows.jsonl", Path(name) / "out"
        rows.write_text("".join(f"{n}\n" for n in range(count)))
        program = Path(name) / "flat.py"
        program.write_text(FLAT)
        done = subprocess.run(
            [sys.executable, program, rows, out],
            env={**os.environ, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            check=True,
        )
        above = json.loads(done.stdout.splitlines()[-1])
        whole = all(n == row for n, row in enumerate(sinks.read(out)))
    figures = [
        Figure(f"{count:,} rows to a sink: memory of the client above start", above, 50, "MB"),
        Figure(f"{count:,} rows to a sink: in order", float(whole), 1, "", at_least=True),
    ]
    return figures, [["rows", "MB above start"], [f"{count:,}", f"{above:.0f}"]], {"above": above}


def killed_workers(times: int) -> Measured:
    """Kill a worker in the middle of each run."""
    lost, most_again, drawn = 0, 0, random.Random(0)
    count = 3000
    with tempfile.TemporaryDirectory() as name:
        for number in range(times):
            # A cluster for each: Dask's nannies do not always start a worker again that is killed soon after.
            with cluster() as client:
                edge = edge_of(begins, client).with_(max_concurrency=32)
                notes, pids = Path(name) / str(number), list(client.run(os.getpid).values())
                killer = threading.Timer(
                    drawn.uniform(0.2, 1.5), os.kill, (drawn.choice(pids), signal.SIGKILL)
                )
                killer.start()
                found = edge.invoke({"xs": list(range(count)), "notes": str(notes)})["ys"]
                killer.cancel()
            lost += found != list(range(count))
            most_again = max(most_again, len(notes.read_text().split()) - count)
    figures = [
        Figure("kills of a worker: runs with a wrong result", lost, 0, ""),
        Figure("kills of a worker: most items begun twice", most_again, 2 * 1.5 * 32 / 0.02, ""),
    ]
    return (
        figures,
        [["kills", "most items begun twice"], [str(times), str(most_again)]],
        {"again": most_again},
    )


@contextmanager
def scheduler() -> Iterator[tuple[int, Any]]:
    """A client of a scheduler that is a process of its own, as is each of two workers, and its process id."""
    import dask
    import distributed

    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "scheduler.json"

        def start(module: str, *options: str) -> int:
            command = [
                sys.executable,
                "-m",
                f"distributed.cli.{module}",
                "--scheduler-file",
                str(file),
                *options,
            ]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process.pid

        pid = start("dask_scheduler", "--port", "0", "--no-dashboard")
        for _ in range(2):
            start("dask_worker", "--nthreads", "2", "--no-nanny", "--no-dashboard")
        # Dask tries to reach a scheduler that is gone for this long; without this, 30 s.
        stack.enter_context(dask.config.set({"distributed.comm.timeouts.connect": "5s"}))
        client = stack.enter_context(distributed.Client(scheduler_file=str(file)))
        client.wait_for_workers(2)
        yield pid, client


def killed_schedulers(times: int) -> Measured:
    """Kill the scheduler in the middle of a run, which then says so."""
    said, drawn, seconds = 0, random.Random(0), 0.0
    logging.disable(logging.CRITICAL)  # Dask says at length that the scheduler is gone
    for _ in range(times):
        with scheduler() as (pid, client):
            edge = edge_of(waits, client)
            edge.invoke({"xs": [1, 2, 3]})
            after = drawn.uniform(0.2, 2)
            killer = threading.Timer(after, os.kill, (pid, signal.SIGKILL))
            killer.start()
            clock = time.perf_counter()
            try:
                edge.invoke({"xs": list(range(20_000))})
            except EdgeError as error:
                said += "Resume the run" in str(error)
            seconds = max(seconds, time.perf_counter() - clock - after)
    logging.disable(logging.NOTSET)
    figures = [
        Figure("kills of the scheduler that became an EdgeError", said, times, "", at_least=True),
    ]
    table = [["kills", "told", "most seconds until then"], [str(times), str(said), f"{seconds:.1f}"]]
    return figures, table, {"said": said, "seconds": seconds}


CLIENT = """
import sqlite3, sys
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict
from benchmarks.executors import begins
from mahsm import connect, vmap

class State(TypedDict, total=False):
    xs: list
    notes: str
    ys: list

if __name__ == "__main__":
    folder, count = sys.argv[1], int(sys.argv[2])
    database = sqlite3.connect(f"{folder}/saver.db", check_same_thread=False)
    edge = vmap(
        begins,
        batch_key="xs",
        out_key="ys",
        executor="process",
        max_concurrency=32,
        chunk_size=25,
        name="edge",
    )
    graph = connect(StateGraph(State), START, edge).compile(checkpointer=SqliteSaver(database))
    config = {"configurable": {"thread_id": "1"}}
    began = graph.get_state(config).values
    found = graph.invoke(None if began else {"xs": list(range(count)), "notes": f"{folder}/notes"}, config)
    print(found["ys"] == list(range(count)))
"""


def killed_clients(times: int) -> Measured:
    """Kill the client at random moments, and start it again until it ends."""
    drawn, count, killed = random.Random(0), 5_000 * max(times, 4), 0
    with tempfile.TemporaryDirectory() as name:
        program = Path(name) / "client.py"
        program.write_text(CLIENT)
        command = [sys.executable, str(program), name, str(count)]
        environment = {**os.environ, "PYTHONPATH": os.getcwd()}
        whole = False
        while not whole:
            with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
                try:
                    wanted = drawn.uniform(4.5, 6.5) if killed < times else None
                    whole = "True" in process.communicate(timeout=wanted)[0]
                    if not whole:
                        break
                except subprocess.TimeoutExpired:
                    process.kill()
                    killed += 1
        time.sleep(1)
        left = int(
            subprocess.run(["pgrep", "-cf", name], capture_output=True, text=True, check=False).stdout or 0
        )
        again = len((Path(name) / "notes").read_text().split()) - count
    figures = [
        Figure("kills of the client", killed, times, "", at_least=True),
        Figure("kills of the client: the result is whole", float(whole), 1, "", at_least=True),
        Figure("kills of the client: processes left", left, 0, ""),
    ]
    table = [["kills", "items begun twice, for a kill"], [str(killed), f"{again / max(killed, 1):.0f}"]]
    return figures, table, {"killed": killed, "again": again}
