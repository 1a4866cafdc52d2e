"""What traces cost: nothing that matters when they are off, and little of the time of what waits when they
are on.

Off, the code that would trace is timed by itself. On, the spans go to an exporter in memory; what it takes to
send them is a thread's of Langfuse's client, and no run waits for it.
"""

import asyncio
import gc
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypedDict

from langfuse import Langfuse
from langgraph.graph import END, START, StateGraph
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from benchmarks import report
from benchmarks.report import Figure
from mahsm import _spans, connect, tracing, vmap
from mahsm.edges._shared.run import EdgeRun

Rows = list[list[str]]
LATENCY, CONCURRENCY = 0.05, 64
CARD = re.compile(r"\b(?:\d{4}[ -]?){3}\d{4}\b")


class State(TypedDict, total=False):
    xs: list[int]
    ys: list[int]


def microseconds(rounds: int, number: int, run: Callable[[], Any]) -> float:
    """Of one call, in the quickest round, less what the loop takes."""

    def timed(function: Callable[[], Any]) -> float:
        began = time.perf_counter()
        for _ in range(number):
            function()
        return (time.perf_counter() - began) / number * 1e6

    best = min(timed(run) for _ in range(rounds))
    return max(0.0, best - min(timed(lambda: None) for _ in range(rounds)))


def off(rounds: int, number: int) -> tuple[list[Figure], dict[str, float]]:
    run: Any = SimpleNamespace(span=None, saving=None, heard_as=None)

    def item() -> None:
        with EdgeRun.part(run, "item", 0, 1):
            pass

    def edge() -> None:
        _spans.tracer()
        EdgeRun.shown(run, {})

    each = {"item": microseconds(rounds, number, item), "edge": microseconds(rounds, number, edge)}
    figures = [
        Figure("off, for an item", each["item"], 1, "us"),
        Figure("off, for an edge run", each["edge"], 20, "us"),
    ]
    return figures, each


def waiting_edge() -> Any:
    async def wait(state: Any) -> int:
        await asyncio.sleep(LATENCY)
        return state["item"]

    return vmap(wait, batch_key="xs", out_key="ys", max_concurrency=CONCURRENCY, name="waits")


def walls_of(rounds: int, count: int, client: Any, *, handler: bool = False) -> dict[str, float]:
    """Seconds of the quickest run with traces off and on; with a handler, of a graph."""
    run: Any = connect(StateGraph(State), START, waiting_edge(), END).compile() if handler else waiting_edge()
    walls = {"off": float("inf"), "on": float("inf")}
    for _ in range(rounds):
        for name in walls:
            tracing.use(client) if name == "on" else tracing.off()
            config: Any = {"callbacks": [tracing.handler()]} if handler and name == "on" else {}
            gc.collect()
            began = time.perf_counter()
            assert len(asyncio.run(run.ainvoke({"xs": list(range(count))}, config))["ys"]) == count
            walls[name] = min(walls[name], time.perf_counter() - began)
    tracing.off()
    return walls


def masked(*, data: Any, **_: Any) -> Any:
    """A user's mask: no text with the number of a card."""
    if isinstance(data, str):
        return CARD.sub("****", data)
    if isinstance(data, dict):
        return {key: masked(data=value) for key, value in data.items()}
    return [masked(data=value) for value in data] if isinstance(data, list) else data


def on(rounds: int, count: int) -> tuple[list[Figure], Rows, dict[str, dict[str, float]]]:
    items = f"{count:,} items of {LATENCY * 1000:.0f} ms"
    figures: list[Figure] = []
    rows = [[f"{items}, {CONCURRENCY} at once", "traces off, s", "on, s", "spans"]]
    found: dict[str, dict[str, float]] = {}
    for kind, options in {"on": {}, "on, with handler and mask": {"mask": masked}}.items():
        exporter = InMemorySpanExporter()
        client = Langfuse(
            public_key=f"pk-benchmark-{len(found)}",
            secret_key="sk",
            base_url="http://127.0.0.1:9",
            tracer_provider=TracerProvider(),
            span_exporter=exporter,
            **options,
        )
        walls = walls_of(rounds, count, client, handler=bool(options))
        client.flush()
        spans = len(exporter.get_finished_spans()) // rounds
        client.shutdown()
        figures.append(Figure(f"{kind}, {items}: wall / off", walls["on"] / walls["off"], 1.05))
        rows.append([kind, f"{walls['off']:.3f}", f"{walls['on']:.3f}", str(spans)])
        found[kind] = {**walls, "spans": spans}
    return figures, rows, found


# Servers that are no good.

SERVER = """
import sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
latency, status = float(sys.argv[1]), int(sys.argv[2])
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        time.sleep(latency)
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()
    do_GET = do_POST
    def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""

BROKEN = {"0.5 s late": (0.5, 200), "answers 500": (0.0, 500), "answers 401": (0.0, 401), "absent": None}


def servers(rounds: int, count: int) -> tuple[list[Figure], Rows, dict[str, dict[str, float]]]:
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    found: dict[str, dict[str, float]] = {}
    for kind, options in BROKEN.items():
        command = [sys.executable, "-c", SERVER, *map(str, options or (0, 200))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if options is None:
                process.kill()
            key = f"pk-{kind.replace(' ', '-')}"
            client = Langfuse(public_key=key, secret_key="sk", base_url=f"http://127.0.0.1:{port}", timeout=1)
            found[kind] = walls_of(rounds, count, client)
            process.kill()
    rows = [["Langfuse's server", "wall, traces on / off"]]
    rows += [[kind, f"{walls['on'] / walls['off']:.3f}"] for kind, walls in found.items()]
    worst = max(walls["on"] / walls["off"] for walls in found.values())
    return (
        [Figure("on, with a server that is late, fails, refuses or is absent: wall / off", worst, 1.1)],
        rows,
        found,
    )


def main(*, quick: bool) -> int:
    parts: dict[str, report.Part] = {
        "off": lambda: off(2 if quick else 10, 1000 if quick else 100_000),
        "on": lambda: on(1 if quick else 6, 64 if quick else 1000),
        "servers": lambda: servers(1 if quick else 3, 64 if quick else 1000),
    }
    return report.run("tracing", parts, quick=quick)
