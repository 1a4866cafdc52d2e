"""What `mahsm run` costs: CPU and memory for many rows, and what kills lose; beside the edge alone and peers.

Each measurement is a process of its own, since memory is that of a process. What a command takes is counted
above the same command for one row.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.report import Figure
from mahsm.data import sinks

Rows = list[list[str]]

WORKER = r"""
import asyncio, json, resource, sys, time
from pathlib import Path

kind, rows, out = sys.argv[1:]


async def length(state):
    row = state["item"]
    return {"id": row["id"], "length": len(row["text"])}


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if kind == "loop":

    async def work():
        with open(rows, "rb") as given, open(out, "w") as written:
            for line in given:
                written.write(json.dumps(await length({"item": json.loads(line)})) + "\n")

elif kind == "datasets":
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()

    async def row_length(row):
        return {"length": (await length({"item": row}))["length"]}

    async def work():
        # `map` calls asyncio.run for an async function.
        await asyncio.to_thread(mapped)

    def mapped():
        given = load_dataset("json", data_files=rows, split="train", cache_dir=out + ".cache")
        given.map(row_length, remove_columns="text").to_json(out)

elif kind == "streamable":
    from streamable import stream

    async def row_length(row):
        return await length({"item": row})

    async def work():
        with open(rows, "rb") as given, open(out, "w") as written:
            async for found in stream(given).map(json.loads).map(row_length, concurrency=64):
                written.write(json.dumps(found) + "\n")

else:
    from mahsm import vmap
    from mahsm.data import sinks, stream

    options = {"batch_key": "rows", "out_key": "done", "max_concurrency": 64}
    asyncio.run(vmap(length, **options).ainvoke({"rows": [{"id": 0, "text": ""}]}))  # the first call imports

    if kind == "list":

        async def work():
            with open(rows, "rb") as given:
                listed = [json.loads(line) for line in given]
            global began
            began = time.process_time()
            await vmap(length, **options).ainvoke({"rows": listed})

    else:
        edge = vmap(length, sink=sinks.Jsonl(out), **options)

        async def work():
            await edge.ainvoke({"rows": stream(rows)})


start, began, clock = peak(), time.process_time(), time.perf_counter()
asyncio.run(work())
print(json.dumps([time.process_time() - began, time.perf_counter() - clock, peak() - start]))
"""


def write_rows(path: Path, count: int, largest: int) -> None:
    """Write rows; with `largest`, of ragged sizes, whose share above a size falls as its inverse."""
    drawn = random.Random(0)
    with open(path, "w") as file:
        for n in range(count):
            size = min(largest, int(100 / (1 - drawn.random()))) if largest else 150
            file.write(f'{{"id": {n}, "text": "{"x" * size}"}}\n')


APP = """
async def length(state):
    return {"id": state["id"], "length": len(state["text"])}
"""


def measure(kind: str, rows: Path, out: Path) -> tuple[float, float, float]:
    """CPU seconds, seconds, and MB of memory above the start."""
    given = [sys.executable, "-c", WORKER, kind, str(rows), str(out)]
    done = subprocess.run(given, capture_output=True, text=True, check=True)
    cpu, wall, memory = json.loads(done.stdout)
    return cpu, wall, memory


def command(rows: Path, out: Path) -> list[str]:
    """`mahsm run`, with the target in a file beside the rows."""
    (rows.parent / "app.py").write_text(APP)
    options = ["--input", str(rows), "--out", str(out), "--max-concurrency", "64"]
    return [sys.executable, "-m", "mahsm", "run", f"{rows.parent}/app.py:length", *options]


def run_command(rows: Path, out: Path) -> tuple[float, float, float]:
    """CPU seconds, seconds, and MB of memory of a whole process."""
    began = time.perf_counter()
    with subprocess.Popen(
        command(rows, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"mahsm run has ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - began, used.ru_maxrss / 1024


def measure_command(rows: Path, out: Path) -> tuple[float, float, float]:
    """The same above a run of one row: what the rows take."""
    one = rows.with_name("one.jsonl")
    with rows.open() as given:
        one.write_text(given.readline())
    start = run_command(one, out.with_name("one"))
    cpu, wall, memory = (
        of_all - of_one for of_all, of_one in zip(run_command(rows, out), start, strict=True)
    )
    return cpu, wall, memory


def is_whole(out: Path, count: int) -> bool:
    """Whether each row is in the sink once, in order."""
    found = -1
    for found, row in enumerate(sinks.read(out)):
        if row["id"] != found:
            return False
    return found + 1 == count


def many(count: int, listed: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", count, 0)
        write_rows(folder / "listed.jsonl", listed, 0)
        found = {
            "mahsm run": (count, *measure_command(folder / "rows.jsonl", folder / "out")),
            "a stream and a sink": (count, *measure("sink", folder / "rows.jsonl", folder / "sink")),
            "vmap over a list": (listed, *measure("list", folder / "listed.jsonl", folder / "none")),
            "a plain loop": (count, *measure("loop", folder / "rows.jsonl", folder / "loop.jsonl")),
        }
        for peer, way in {"datasets": "datasets.map", "streamable": "streamable"}.items():
            if find_spec(peer):
                found[way] = (listed, *measure(peer, folder / "listed.jsonl", folder / f"{peer}.jsonl"))
        whole = is_whole(folder / "out", count) and is_whole(folder / "sink", count)
    each = {kind: cpu / rows * 1e6 for kind, (rows, cpu, _, _) in found.items()}
    table = [["way", "rows", "CPU us a row", "seconds", "MB above start"]]
    for kind, (rows, _, wall, memory) in found.items():
        table.append([kind, f"{rows:,}", f"{each[kind]:.1f}", f"{wall:.1f}", f"{memory:.0f}"])
    figures = [
        Figure(f"{count:,} rows: each once, in order", float(whole), 1, "", at_least=True),
        Figure(f"{count:,} rows: memory above start", found["mahsm run"][3], 50, "MB"),
        Figure("CPU of a row", each["mahsm run"], 20, "us"),
        Figure(
            "CPU of a row, a stream and a sink / vmap over a list",
            each["a stream and a sink"] / each["vmap over a list"],
            1.5,
            "x",
        ),
    ]
    return figures, table, {kind: list(values) for kind, values in found.items()}


def ragged(count: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", count, 1_000_000)
        size = os.path.getsize(folder / "rows.jsonl") / 1e6
        cpu, wall, memory = measure_command(folder / "rows.jsonl", folder / "out")
        whole = is_whole(folder / "out", count)
    table = [
        ["rows of up to 1 MB", "MB", "CPU us a row", "seconds", "MB above start"],
        [f"{count:,}", f"{size:.0f}", f"{cpu / count * 1e6:.1f}", f"{wall:.1f}", f"{memory:.0f}"],
    ]
    figures = [
        Figure(f"{count:,} ragged rows: each once, in order", float(whole), 1, "", at_least=True),
        Figure(f"{count:,} ragged rows: memory above start", memory, 50, "MB"),
    ]
    return figures, table, {"cpu": cpu, "wall": wall, "memory": memory}


def kills(count: int, times: int, longest: float) -> tuple[list[Figure], Rows, dict[str, Any]]:
    """Kill the process so many times, after up to so many seconds, then let it end."""
    drawn = random.Random(1)
    killed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "rows.jsonl", count, 0)
        given = command(folder / "rows.jsonl", folder / "out")
        while killed < times:
            with subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                try:
                    process.wait(drawn.uniform(0.5, 1) * longest)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    killed += 1
                    continue
            break
        run_command(folder / "rows.jsonl", folder / "out")
        whole = is_whole(folder / "out", count)
    figures = [
        Figure(f"{count:,} rows, kills at random moments", killed, times, "", at_least=True),
        Figure(f"{count:,} rows after them: each once, in order", float(whole), 1, "", at_least=True),
    ]
    return figures, [["kills", "rows"], [str(killed), f"{count:,}"]], {"killed": killed, "whole": whole}


def main(*, quick: bool) -> int:
    parts: dict[str, report.Part] = {
        "many": lambda: many(2_000, 2_000) if quick else many(1_000_000, 200_000),
        "ragged": lambda: ragged(500 if quick else 500_000),
        "kills": lambda: kills(2_000, 0, 1) if quick else kills(1_000_000, 20, 4),
    }
    return report.run("streams", parts, quick=quick)
