"""The variants that tests run over: ways to run a graph, and kinds of parent state."""

import asyncio
import logging
import operator
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.graph.state import CompiledStateGraph
from pydantic import BaseModel

from mahsm import Branch, Edge, connect

MODES = ("sync", "async")


class DictState(TypedDict, total=False):
    xs: Any
    bias: int
    ys: Any
    errors: Any


@dataclass
class DataclassState:
    xs: Any = None
    bias: int = 0
    ys: Any = None
    errors: Any = None


class PydanticState(BaseModel):
    xs: Any = None
    bias: int = 0
    ys: Any = None
    errors: Any = None


class MessagesState(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    xs: Any
    bias: int
    ys: Any
    errors: Any


class SummedState(TypedDict, total=False):
    """A parent that reduces the edge's own output key."""

    xs: list[int]
    ys: Annotated[list[Any], operator.add]


STATES = (DictState, DataclassState, PydanticState, MessagesState)


def graph_of(
    *steps: Any, state: type[Any] = DictState, **options: Any
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """A graph that runs the edges one after the other."""
    return connect(StateGraph(state), START, *steps, END).compile(**options)


def logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return what was logged, without what Dask says, whose schedulers of other tests may run on."""
    return [record for record in caplog.records if not record.name.startswith("distributed")]


def run(runnable: Any, state: Any, mode: str, config: Any = None) -> Any:
    """Run under `invoke` or under `ainvoke`."""
    return runnable.invoke(state, config) if mode == "sync" else asyncio.run(runnable.ainvoke(state, config))


def run_edge(edge: Edge, xs: Any, mode: str) -> Any:
    """What the edge makes of a batch."""
    return run(edge, {"xs": xs}, mode)["ys"]


def thread(number: str = "1", **more: Any) -> Any:
    return {"configurable": {"thread_id": number}, **more}


def chat_model(base_url: str, **options: Any) -> Any:
    """LangChain's model for OpenAI, whose connections do not outlive their event loop."""
    from langchain_openai import ChatOpenAI

    closing = {"Connection": "close"}
    defaults = {
        "model": "gpt-4o-mini",
        "base_url": base_url,
        "api_key": "test",
        "max_retries": 0,
        "default_headers": closing,
    }
    return ChatOpenAI(**{**defaults, **options})


@dataclass
class Gauge:
    """Counts who is inside now, and the most there were; the first may wait until as many as `together`
    are."""

    together: int = 1
    now: int = 0
    most: int = 0
    total: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def inside(self) -> Iterator[None]:
        with self.lock:
            self.now += 1
            self.total += 1
            self.most = max(self.most, self.now)
        try:
            yield
        finally:
            with self.lock:
                self.now -= 1


WAVES: list[dict[str, Any]] = [{"scheduler": "wave"}, {"scheduler": "wave", "eager": True}]


class BranchState(TypedDict, total=False):
    text: str
    a: Any
    b: Any
    c: Any
    d: Any
    log: Annotated[list[str], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]
    errors: Any


def writes(key: str, value: Any = None, *reads: str) -> Branch:
    """A branch that writes a key, made of the keys that it reads."""
    return Branch(
        lambda state: {key: value if value is not None else key + "".join(state[read] for read in reads)},
        name=key,
        reads=reads,
        writes=[key],
    )


def fails(_: Any) -> None:
    raise ValueError("broken")


def contents_of(folder: Path) -> bytes:
    """All that is in the files of a folder.

    Another process reads them: one that has an SQLite file open loses its locks when it closes it again.
    """
    command = ["find", str(folder), "-type", "f", "-exec", "cat", "{}", "+"]
    found = subprocess.run(command, capture_output=True, check=False).stdout
    assert found
    return found
