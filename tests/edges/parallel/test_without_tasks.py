"""Branches that need no tasks of LangGraph, since nothing is saved: the same as those that do."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.types import interrupt
from typing_extensions import TypedDict

from mahsm import Branch, parallel
from tests.helpers import MODES, graph_of, run, thread

KEYS = ("a", "b", "c", "d")


class State(TypedDict, total=False):
    text: str
    a: Any
    b: Any
    c: Any
    d: Any
    errors: Any


def branch(key: str, fault: str | None, is_async: bool, after: list[str]) -> Branch:
    def target(state: dict[str, Any]) -> dict[str, Any]:
        get_stream_writer()(f"{key} began")
        if fault is not None:
            raise ValueError(fault)
        return {key: f"{state['text']} {key} {[state.get(name) for name in after]}"}

    async def later(state: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return target(state)

    return Branch(later if is_async else target, name=key, writes=[key], after=after)


def told(graph: Any, mode: str, config: Any) -> list[Any]:
    """The stream of the graph, or the error at its end."""
    given = {"text": "x"}
    found: list[Any] = []

    async def main() -> None:
        async for chunk in graph.astream(given, config, stream_mode=["custom", "updates"]):
            found.append(chunk)  # noqa: PERF401  what came before an error is kept

    try:
        if mode == "async":
            asyncio.run(main())
        else:
            found.extend(graph.stream(given, config, stream_mode=["custom", "updates"]))
    except ValueError as error:
        # LangGraph adds a note for each of its tasks.
        found.append((str(error), [note for note in error.__notes__ if note.startswith("mahsm")]))
    return found


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_it_does_what_it_does_with_tasks(mode: str, data: st.DataObject) -> None:
    faulty = data.draw(st.sampled_from([None, *KEYS]))
    scheduler = data.draw(st.sampled_from(["parallel", "sequential", "wave"]))
    branches: list[Branch] = []
    for number, key in enumerate(KEYS):
        fault = f"{key} fails" if key == faulty else None
        before = st.lists(st.sampled_from(KEYS[:number]), unique=True) if number else st.just([])
        after = data.draw(before) if scheduler == "wave" else []
        branches.append(branch(key, fault, data.draw(st.booleans()), after))
    options: dict[str, Any] = {
        "scheduler": scheduler,
        "max_concurrency": data.draw(st.sampled_from([None, 1, 2])),
        "on_error": data.draw(st.sampled_from(["raise", "isolate"])),
    }
    if options["on_error"] == "isolate":
        options["errors_key"] = "errors"
    edge = parallel(branches, name="edge", **options)
    plain = told(graph_of(edge, state=State), mode, None)
    saved = told(graph_of(edge, state=State, checkpointer=InMemorySaver()), mode, thread())
    # Branches that run at the same time tell in any order; where one fails, others may not begin.
    assert plain[-1] == saved[-1]
    if faulty is None:
        assert sorted(map(repr, plain)) == sorted(map(repr, saved))


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_ends_the_graph_with_all_questions(mode: str) -> None:
    def asks(state: State) -> State:
        return {"a": interrupt("a?")}

    def asks_too(state: State) -> State:
        return {"b": interrupt("b?")}

    found = run(
        graph_of(parallel({"a": asks, "b": asks_too, "c": lambda _: {"c": 1}}), state=State), {}, mode
    )
    assert {each.value for each in found["__interrupt__"]} == {"a?", "b?"}
