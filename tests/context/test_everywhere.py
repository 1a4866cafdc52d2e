"""Where a context is present: edge workers, threads, subgraphs, jitted steps, DSPy."""

import asyncio
import copy
from pathlib import Path
from typing import Any, TypedDict

import dspy
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from mahsm import dspy_node, parallel, vmap, xcs
from mahsm.context import create_context, get_config, get_context, set_config, with_context
from mahsm.errors import ContextError
from mahsm.testing import ModelServer
from tests.context.conftest import write


class State(TypedDict, total=False):
    items: list[int]
    found: list[Any]
    a: Any
    b: Any


def read(state: Any) -> Any:
    number = state["item"]
    before = get_config("mine.who")
    set_config("mine.who", number)
    return before, get_config("mine.who")


async def read_async(state: Any) -> Any:
    await asyncio.sleep(0)
    return read(state)


@pytest.mark.parametrize("target", [read, read_async])
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_edge_workers_have_the_context_and_keep_their_changes(target: Any, chunk_size: int | None) -> None:
    options: dict[str, Any] = {} if chunk_size is None else {"chunk_size": chunk_size}
    edge = vmap(target, batch_key="items", out_key="found", **options)
    expected = [("me", number) for number in range(20)]
    with create_context(mine={"who": "me"}) as context:
        assert edge.invoke({"items": list(range(20))})["found"] == expected
        assert asyncio.run(edge.ainvoke({"items": list(range(20))}))["found"] == expected
        assert context.get_config("mine.who") == "me"


def test_branches_and_subgraphs_have_the_context() -> None:
    inner = StateGraph(State)
    inner.add_node("a", lambda state: {"a": get_config("mine")})
    inner.add_edge(START, "a")
    edge = parallel({"a": inner.compile(), "b": lambda state: {"b": get_config("mine")}})
    outer = StateGraph(State)
    outer.add_node("edge", edge)
    outer.add_edge(START, "edge")
    graph = outer.compile(checkpointer=InMemorySaver())
    with with_context(mine=1):
        config: Any = {"configurable": {"thread_id": "1"}}
        assert graph.invoke({}, config) == {"a": 1, "b": 1}
        assert asyncio.run(graph.ainvoke({}, {"configurable": {"thread_id": "2"}})) == {"a": 1, "b": 1}


@xcs.step
def step(number: int) -> Any:
    return number, get_config("mine")


@xcs.jit
def program(numbers: list[int]) -> list[Any]:
    found = [step(number) for number in numbers]
    with with_context(mine=2):
        found.append(step(9))
    set_config("mine", 3)
    found.append(step(8))
    return found


def test_steps_of_jitted_functions_have_the_context() -> None:
    with with_context(mine=1):
        assert program([0, 1]) == [(0, 1), (1, 1), (9, 2), (8, 3)]


def test_dspy_follows_a_block_that_sets_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    say = dspy.Predict("question -> answer")
    before = dspy.settings.lm
    with ModelServer(lambda call: {"answer": call.model}) as server:
        options: Any = {"api_base": server.base_url, "cache": False, "num_retries": 0}
        with create_context(models={"default": "openai/a", **options}) as outer:
            assert say(question="?").answer == "a"
            with with_context(mine=1), dspy.context(lm=server.lm("openai/own")):
                with with_context(mine=2):
                    assert say(question="?").answer == "own"
                with with_context(models={"default": "openai/b"}):
                    assert say(question="?").answer == "b"
            assert say(question="?").answer == "a"
        child = outer.create_child(mine=1)
        with child:
            assert say(question="?").answer == "a"
        assert dspy.settings.lm is before


def test_dspy_in_edges_follows_blocks_around_and_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    say = dspy.Predict("question -> answer")

    def other(state: Any) -> Any:
        with with_context(models={"default": f"openai/inner{state['item']}"}):
            return say(question="?").answer

    around = vmap(
        dspy_node(say),
        batch_key="items",
        out_key="found",
        result="answer",
        item_to_state=lambda item: {"question": str(item)},
    )
    inside = vmap(other, batch_key="items", out_key="found")
    with ModelServer(lambda call: {"answer": call.model}) as server:
        options: Any = {"api_base": server.base_url, "cache": False, "num_retries": 0}
        with create_context(models={"default": "openai/outer", **options}):
            assert around.invoke({"items": [1, 2]})["found"] == ["outer", "outer"]
            assert inside.invoke({"items": [1, 2]})["found"] == ["inner1", "inner2"]
            assert asyncio.run(inside.ainvoke({"items": [1]}))["found"] == ["inner1"]


class Reads(dspy.Module):
    """Returns what a thread of DSPy's finds."""

    def forward(self, item: int) -> Any:
        set_config("mine.item", item)
        found = (
            get_config("mine.who"),
            get_config("mine.item") == item,
            get_context().get_credential("openai"),
        )
        return dspy.Prediction(got=found)


def in_threads_of_dspy(state: Any = None) -> list[Any]:
    pairs = [(Reads(), dspy.Example(item=number).with_inputs("item")) for number in range(6)]
    return [each.got for each in dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs)]


@pytest.mark.parametrize("around", ["edge", "models", "credentials", "edge in models", "models in edge"])
def test_threads_that_dspy_starts_have_the_context(around: str) -> None:
    with with_context(mine={"who": 1}, credentials={"openai_api_key": "sk-mine"}):
        if around == "edge":
            edge = vmap(in_threads_of_dspy, batch_key="items", out_key="found")
            assert edge.invoke({"items": [0]})["found"] == [[(1, True, "sk-mine")] * 6]
        elif around == "edge in models":
            edge = vmap(in_threads_of_dspy, batch_key="items", out_key="found")
            with with_context(models={"default": "openai/x"}), with_context(mine={"who": 2}):
                assert edge.invoke({"items": [0]})["found"] == [[(2, True, "sk-mine")] * 6]
        elif around == "models in edge":
            inside = with_context(models={"default": "openai/x"}, mine={"who": 3})(in_threads_of_dspy)
            edge = vmap(lambda state: inside(), batch_key="items", out_key="found")
            assert edge.invoke({"items": [0]})["found"] == [[(3, True, "sk-mine")] * 6]
        elif around == "models":
            with with_context(models={"default": "openai/x"}):
                assert in_threads_of_dspy() == [(1, True, "sk-mine")] * 6
        else:
            assert in_threads_of_dspy() == [(1, True, "sk-mine")] * 6
        assert get_config("mine.item") is None


def test_settings_of_dspy_can_be_saved_in_a_block_and_have_no_key(tmp_path: Path) -> None:
    with with_context(credentials={"openai_api_key": "sk-mine"}):
        assert "sk-mine" not in repr(dspy.settings)
        # Other tests may have set what cannot be pickled.
        others = [name for name in dspy.settings.config if name != "mahsm_context"]
        dspy.settings.save(str(tmp_path / "settings.pkl"), exclude_keys=others)
        copy.deepcopy(dspy.settings.mahsm_context)
    assert b"sk-mine" not in (tmp_path / "settings.pkl").read_bytes()


def test_a_block_that_cannot_begin_leaves_nothing_behind(home: Path) -> None:
    write(home, "config.yaml", "models: [")
    before = dspy.settings.lm
    with pytest.raises(ContextError, match="not valid YAML"), with_context(models={"default": "openai/x"}):
        pass
    (home / "config.yaml").unlink()
    assert get_config("models.default") is None
    assert dspy.settings.lm is before


def test_blocks_without_models_do_not_import_dspy() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from mahsm.context import *\n"
        "with create_context(mine=1, credentials={'x_api_key': 'k'}): set_config('models.default', 'a/b')\n"
        "print([name for name in ('dspy', 'langgraph', 'jax', 'keyring', 'yaml') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
