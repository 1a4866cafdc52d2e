"""Targets that workers import."""

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from typing_extensions import TypedDict

from mahsm import limits, vmap


class State(TypedDict, total=False):
    item: int
    doubled: int


def fails_at(state: dict[str, Any]) -> bool:
    return state["item"] in state.get("failing", ())


def double(state: dict[str, Any]) -> int:
    if fails_at(state):
        raise ValueError(f"no {state['item']}")
    return state["item"] * 2


async def double_later(state: dict[str, Any]) -> int:
    await asyncio.sleep(0)
    return double(state)


def process(state: dict[str, Any]) -> int:
    time.sleep(0.01)
    return os.getpid()


def noted(state: dict[str, Any]) -> int:
    folder, item = Path(state["mark"]), state["item"]
    with open(folder / "calls", "a") as file:
        file.write(f"{item}\n")
    if item == 40 and not (folder / "repaired").exists():
        raise ConnectionError("down")
    return item


def configured(state: dict[str, Any], config: RunnableConfig) -> Any:
    own: dict[str, Any] = config.get("configurable", {})
    return own["tenant"], own["thread_id"], config.get("tags")


def ends_at_7(state: dict[str, Any]) -> int:
    if state["item"] == 7:
        os._exit(3)
    return state["item"]


def ends_once(state: dict[str, Any]) -> int:
    if state["item"] == 7 and not os.path.exists(state["mark"]):
        with open(state["mark"], "x"):
            os._exit(3)
    return state["item"]


def waits(state: dict[str, Any]) -> None:
    with open(Path(state["mark"]) / "pids", "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(600)


def asks(state: dict[str, Any]) -> Any:
    return interrupt("may I?")


def builder() -> StateGraph[Any, Any, Any, Any]:
    def node(state: State) -> State:
        return {"doubled": state["item"] * 2}

    made = StateGraph(State)
    made.add_node("node", node)
    made.add_edge(START, "node")
    made.add_edge("node", END)
    return made


graph = builder().compile(name="doubles")


class Ask(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        return self.predict(question=question)


def meets(state: dict[str, Any]) -> tuple[int, list[str]]:
    """Wait until two processes are here; return the process, and the buckets that it has."""
    folder = Path(state["mark"])
    (folder / str(os.getpid())).touch()
    for _ in range(6000):
        if len(list(folder.iterdir())) > 1:
            return os.getpid(), sorted(limits.stats())
        time.sleep(0.01)
    raise TimeoutError("there is one process")


class Status(Exception):
    """Has an argument more than `args`, and holds what cannot be pickled."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code, self.connection = code, threading.Lock()


def answers_with_a_status(state: dict[str, Any]) -> None:
    raise Status(410, "gone")


class Silent(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def is_silent(state: dict[str, Any]) -> None:
    raise Silent


def gives_a_lock(state: dict[str, Any]) -> Any:
    return threading.Lock() if state["item"] == 2 else state["item"]


def gives_what_cannot_be_read(state: dict[str, Any]) -> Any:
    return Status(410, "gone") if state["item"] == 2 else state["item"]


def gives_an_error(state: dict[str, Any]) -> Any:
    return ValueError(state["item"])


def together(state: dict[str, Any]) -> int:
    mine = Path(state["mark"], str(state["item"]))
    mine.touch()
    count = len(list(mine.parent.iterdir()))
    time.sleep(0.02)
    mine.unlink()
    return count


def length(state: dict[str, Any]) -> int:
    return len(state["item"])


def ends_after_a_failure(state: dict[str, Any]) -> int:
    folder, item = Path(state["mark"]), state["item"]
    with open(folder / "calls", "a") as file:
        file.write(f"{item}\n")
    begun, failed = folder / "begun", folder / "failed"
    if item == 0:
        begun.touch()
        until(failed.exists)
        time.sleep(0.5)
    elif not failed.exists():
        until(begun.exists)
        failed.touch()
        raise ConnectionError
    return item


def until(is_over: Callable[[], bool]) -> None:
    for _ in range(3000):
        if is_over():
            return
        time.sleep(0.01)


def fans_out(state: dict[str, Any]) -> list[int]:
    inner = vmap(double, batch_key="inner", out_key="doubled", executor="process", max_concurrency=1)
    return inner.invoke({"inner": [state["item"]]})["doubled"]


def exits(state: dict[str, Any]) -> None:
    raise SystemExit(5)


async def exits_later(state: dict[str, Any]) -> None:
    exits(state)
