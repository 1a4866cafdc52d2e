"""A `langgraph dev` server on loopback, and what its clients see of edges."""

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_client

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("langgraph_api") is None, reason="no langgraph-cli[inmem]; it is in the extra dev-server"
    ),
]

ROOT = Path(__file__).parent.parent.parent
QUIET = {
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGSMITH_API_KEY": "",
    "NO_COLOR": "1",
}
GRAPHS = ["sent", "review", "alone", "asking"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server of the graphs in `served.py`: its address, and the file of its log."""
    place = tmp_path_factory.mktemp("server")
    graphs = {name: f"{Path(__file__).with_name('served.py')}:{name}" for name in GRAPHS}
    (place / "langgraph.json").write_text(json.dumps({"dependencies": ["."], "graphs": graphs}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [
        sys.executable,
        "-m",
        "langgraph_cli",
        "dev",
        "--no-browser",
        "--no-reload",
        "--n-jobs-per-worker",
        "4",
    ]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    url, log = f"http://127.0.0.1:{port}", place / "log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", port],
            cwd=place,
            env=os.environ | QUIET | {"PYTHONPATH": paths},
            stdout=written,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_for(url, process, log)
            yield url, log
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(900):
        assert process.poll() is None, log.read_text()
        try:
            if httpx.get(f"{url}/ok", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(log.read_text())


@pytest.fixture
async def client(server: tuple[str, Path]) -> AsyncIterator[Any]:
    """A client; what it does must leave no complaint in the server's log."""
    url, log = server
    before = len(log.read_bytes())
    async with get_client(url=url) as client:
        yield client
    said = log.read_bytes()[before:].decode().splitlines()
    assert not [
        line for line in said if "blocking" in line.lower() or "error" in line.lower() or "Traceback" in line
    ]


GIVEN = {"topics": ["sea", "skies"]}


async def test_each_graph_is_an_assistant_with_its_schemas(client: Any) -> None:
    assistants = {one["graph_id"]: one["assistant_id"] for one in await client.assistants.search()}
    assert {*assistants} == {*GRAPHS}
    for name in ("review", "alone"):
        schemas = await client.assistants.get_schemas(assistants[name])
        for key in ("input_schema", "output_schema", "state_schema"):
            assert {*schemas[key]["properties"]} == {"topics", "notes", "grades", "best"}


async def test_a_graph_is_drawn_with_what_is_in_its_edges(client: Any) -> None:
    drawn = await client.assistants.get_graph("review", xray=True)
    names = {str(node["id"]).rpartition(":")[2] for node in drawn["nodes"]}
    assert {"__start__", "research", "grade", "__end__"} <= names
    ids = {node["id"] for node in drawn["nodes"]}
    assert {end for edge in drawn["edges"] for end in (edge["source"], edge["target"])} <= ids


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("graph", ["review", "alone"])
async def test_what_is_streamed_without_subgraphs_is_that_of_a_send(
    client: Any, graph: str, saved: bool
) -> None:
    seen: list[Any] = []
    for name in ("sent", graph):
        thread = (await client.threads.create())["thread_id"] if saved else None
        modes = ["values", "updates", "custom", "messages-tuple"]
        parts = [part async for part in client.runs.stream(thread, name, input=GIVEN, stream_mode=modes)]
        tokens = Counter(part.data[0]["content"] for part in parts if part.event == "messages")
        wrote = sorted(
            part.data["about"] for part in parts if part.event == "custom" and "about" in part.data
        )
        values = [part.data for part in parts if part.event == "values"][-1]
        seen.append((tokens, wrote, values["notes"]))
    assert seen[0] == seen[1]
    assert seen[0] == (
        Counter({"note": 2, " ": 4, "on": 2, "sea": 1, "skies": 1}),
        ["sea", "skies"],
        ["note on sea", "note on skies"],
    )
    assert graph == "alone" or values["best"] == "note on skies"


async def test_tokens_say_their_edge_and_item(client: Any) -> None:
    parts = [
        part async for part in client.runs.stream(None, "review", input=GIVEN, stream_mode="messages-tuple")
    ]
    said = [part.data[1] for part in parts if part.event == "messages"]
    assert {one["langgraph_node"] for one in said} == {one["mahsm_edge"] for one in said} == {"research"}
    assert {(*one["mahsm_item"],) for one in said} == {(0,), (1,)}


async def test_subgraphs_are_streamed_on_demand(client: Any) -> None:
    parts = client.runs.stream(None, "review", input=GIVEN, stream_mode="updates", stream_subgraphs=True)
    inside = {
        part.event.partition("|")[2].partition(":")[0]
        async for part in parts
        if part.event.startswith("updates|")
    }
    assert inside == {"research", "grade", "best"}


async def test_questions_of_items_are_answered_by_id(client: Any) -> None:
    thread = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread, "asking", input=GIVEN)
    asked = await _questions(client, thread)
    assert {*asked} == {"sea", "skies"}
    await client.runs.wait(thread, "asking", command={"resume": {asked["skies"]: "blue"}})
    assert await _questions(client, thread) == {"sea": asked["sea"]}
    state = await client.runs.wait(thread, "asking", command={"resume": {asked["sea"]: "deep"}})
    assert state["notes"] == ["sea: deep", "skies: blue"]
    assert await _questions(client, thread) == {}


async def _questions(client: Any, thread: str) -> dict[str, str]:
    """The questions that are open, and their ids."""
    interrupts = (await client.threads.get(thread))["interrupts"].values()
    return {one["value"]: one["id"] for task in interrupts for one in task}


async def test_history_and_a_fork(client: Any) -> None:
    thread = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread, "review", input=GIVEN)
    history = await client.threads.get_history(thread)
    assert [snapshot["next"] for snapshot in history] == [
        [],
        ["best"],
        ["grade"],
        ["research"],
        ["__start__"],
    ]
    graded = next(snapshot for snapshot in history if snapshot["next"] == ["grade"])
    await client.threads.update_state(thread, {"notes": ["by hand", "hand"]}, checkpoint=graded["checkpoint"])
    state = await client.runs.wait(thread, "review", input=None)
    assert (state["grades"], state["best"]) == ([7, 4], "by hand")
