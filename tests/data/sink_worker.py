"""Run an edge with a sink until this process is killed, or to its end; a line on stdout for each call.

python -m tests.data.sink_worker FOLDER jsonl|parquet CHUNK_SIZE sync|async
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from mahsm import vmap
from mahsm.data import sinks, stream


def double(state: dict[str, Any]) -> dict[str, int]:
    n = state["item"]["n"]
    time.sleep(0.001)
    sys.stdout.write(f"{n}\n")
    sys.stdout.flush()
    if n % 10 == 3:
        raise ValueError(n)
    return {"n": 2 * n}


async def double_async(state: dict[str, Any]) -> dict[str, int]:
    await asyncio.sleep(0.001)
    return double(state)


def main(folder: str, format: str, chunk_size: str, mode: str) -> None:
    sink = {"jsonl": sinks.Jsonl, "parquet": sinks.Parquet}[format](Path(folder) / "out")
    options: Any = {"batch_key": "xs", "out_key": "ys", "on_error": "drop", "sink": sink}
    if int(chunk_size):
        options["chunk_size"] = int(chunk_size)
    rows = stream(Path(folder) / "rows.jsonl")
    if mode == "sync":
        vmap(double, name="double", **options).invoke({"xs": rows})
    else:
        asyncio.run(vmap(double_async, name="double", **options).ainvoke({"xs": rows}))


if __name__ == "__main__":
    main(*sys.argv[1:])
