"""An answer that could not be parsed is not read again from DSPy's cache when the call is tried again."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TypedDict

import dspy
import pytest
from dspy.clients.cache import Cache
from dspy.utils.exceptions import AdapterParseError
from langgraph.graph import END, START, StateGraph
from langgraph.types import RetryPolicy

import mahsm
from mahsm import Branch, GraphModule, Retry, connect, dspy_node, parallel, vmap
from mahsm.testing import Call, ModelServer
from tests.helpers import MODES, run


class State(TypedDict, total=False):
    word: str
    words: list[str]
    size: int
    sizes: Any


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own."""
    fresh = Cache(enable_disk_cache=False, enable_memory_cache=True, disk_cache_dir="")
    monkeypatch.setattr(dspy, "cache", fresh)


class Mumbles:
    """Answers badly so many times, and then well; each word by itself."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.asked: dict[str, int] = {}

    def __call__(self, call: Call) -> Any:
        word = call.field("word")
        self.asked[word] = self.asked.get(word, 0) + 1
        if self.asked[word] <= self.times:
            return f"Well, {self.asked[word]}."
        return {"size": len(word)}


@pytest.fixture(params=[1, 2])
def mumbles(request: Any) -> Iterator[Mumbles]:
    said = Mumbles(request.param)
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    with ModelServer(said) as server, dspy.context(lm=server.lm(cache=True), adapter=adapter):
        yield said


def sizes() -> Any:
    return dspy.Predict("word -> size: int")


class Blocks(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = sizes()

    def forward(self, word: str) -> Any:
        return self.ask(word=word)


RETRY = Retry(attempts=3, base=0, on=AdapterParseError)
OF_LANGGRAPH = RetryPolicy(initial_interval=0, jitter=False, max_attempts=3, retry_on=AdapterParseError)


def edge(target: Any, **options: Any) -> Any:
    given: dict[str, Any] = {"batch_key": "words", "out_key": "sizes", "result": "size", "retry": RETRY}
    return vmap(target, item_to_state=lambda word: {"word": word}, **{**given, **options})


def graph_of_node(module: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("ask", dspy_node(module), retry_policy=OF_LANGGRAPH)
    return connect(builder, START, "ask", END).compile()


GRAPHS: dict[str, Any] = {
    "vmap": lambda: edge(sizes()),
    "blocks": lambda: edge(Blocks()),
    "nested": lambda: edge(dspy_node(GraphModule(edge_in_graph(), outputs={"size": "sizes"}))),
    "parallel": lambda: parallel([Branch(dspy_node(sizes()), name="ask", retry=RETRY)]),
    "node": lambda: graph_of_node(sizes()),
    "blocking node": lambda: graph_of_node(Blocks()),
}


def edge_in_graph() -> Any:
    one = vmap(
        sizes(),
        batch=lambda state: [state["word"]],
        out_key="sizes",
        item_to_state=lambda word: {"word": word},
    )
    return connect(StateGraph(State), START, one, END).compile(name="one")


def put_into_the_cache(mode: str, kind: str) -> None:
    """DSPy keeps answers of awaited calls and of blocking ones apart."""
    with suppress(AdapterParseError):
        if mode == "async" and not kind.startswith("block"):
            asyncio.run(sizes().acall(word="four"))
        else:
            sizes()(word="four")


@pytest.mark.parametrize("kind", GRAPHS)
@pytest.mark.parametrize("mode", MODES)
def test_what_the_cache_has_is_not_read_again(mode: str, kind: str, mumbles: Mumbles) -> None:
    """One bad answer was in the cache before; each attempt after it asks once."""
    put_into_the_cache(mode, kind)
    with mahsm.usage() as used:
        run(GRAPHS[kind](), {"word": "four", "words": ["four"]}, mode)
    assert mumbles.asked == {"four": mumbles.times + 1}
    assert (used.calls, used.cached) == (mumbles.times, [2, 4][mumbles.times - 1])


@pytest.mark.parametrize("mode", MODES)
def test_what_was_good_is_read_from_the_cache_also_by_a_second_run(mode: str, mumbles: Mumbles) -> None:
    put_into_the_cache(mode, "vmap")
    for _ in range(2):
        assert run(edge(sizes()), {"words": ["four"]}, mode) == {"sizes": [4]}
    assert mumbles.asked == {"four": mumbles.times + 1}


@pytest.mark.parametrize("mode", MODES)
def test_answers_of_other_calls_stay_in_the_cache(mode: str) -> None:
    class Two(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = dspy.Predict("word -> more"), sizes()

        def forward(self, word: str) -> Any:
            return self.second(word=self.first(word=word).more)

    asked: list[Any] = []

    def answer(call: Call) -> Any:
        asked.append(call.outputs)
        if call.outputs == ["more"]:
            return {"more": "four"}
        return "Well." if len(asked) < 4 else {"size": 4}

    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    with ModelServer(answer) as server, dspy.context(lm=server.lm(cache=True), adapter=adapter):
        assert run(edge(Two()), {"words": ["x"]}, mode) == {"sizes": [4]}
    assert asked == [["more"], ["size"], ["size"], ["size"]]


def test_each_adapter_that_tried_is_asked_anew() -> None:
    """DSPy asks again by JSON what it could not read; both bad answers are known then."""
    asked: list[bool] = []

    def answer(call: Call) -> Any:
        asked.append(len(asked) % 2 == 1)
        return "Well." if len(asked) <= 2 else {"size": 4}

    with ModelServer(answer) as server, dspy.context(lm=server.lm(cache=True)):
        assert edge(sizes()).invoke({"words": ["four"]}) == {"sizes": [4]}
    assert len(asked) == 3
