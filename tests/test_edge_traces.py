"""What edges say in traces, as it arrives at Langfuse."""

import asyncio
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.graph import END, START, StateGraph
from langgraph.checkpoint.memory import InMemorySaver

from mahsm import parallel, reduce_edge, vmap
from mahsm.policies import Hedge, Retry
from tests.helpers import MODES, DictState, graph_of, run, thread
from tests.observations import observed

HANDLERS = (False, True)


def model() -> Any:
    return GenericFakeChatModel(messages=iter([AIMessage("hi") for _ in range(100)]), name="asked")


# B3: a target that passes its config on.


def passes(state: Any, config: RunnableConfig) -> Any:
    return {"ys": model().invoke("x", config).content}


async def passes_later(state: Any, config: RunnableConfig) -> Any:
    return {"ys": (await model().ainvoke("x", config)).content}


def passes_to_a_chain(state: Any, config: RunnableConfig) -> Any:
    return {"ys": (RunnableLambda(lambda x: x) | model()).invoke("x", config).content}


async def passes_to_a_chain_later(state: Any, config: RunnableConfig) -> Any:
    return {"ys": (await (RunnableLambda(lambda x: x) | model()).ainvoke("x", config)).content}


def subgraph() -> Any:
    builder = StateGraph(DictState)
    builder.add_node("ask", passes)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    return builder.compile(name="inner")


def passes_to_a_graph(state: Any, config: RunnableConfig) -> Any:
    return subgraph().invoke({"xs": 1}, config)


async def passes_to_a_graph_later(state: Any, config: RunnableConfig) -> Any:
    return await subgraph().ainvoke({"xs": 1}, config)


PASSING = [passes, passes_later, passes_to_a_chain, passes_to_a_chain_later, passes_to_a_graph, passes_to_a_graph_later]
HOW: list[dict[str, Any]] = [
    {},
    {"chunk_size": 1},
    {"timeout": 50.0},
    {"retry": Retry(attempts=2, base=0)},
    {"hedge": Hedge(after=10)},
    {"max_concurrency": 1},
]


@pytest.mark.parametrize("target", PASSING)
@pytest.mark.parametrize("mode", MODES)
def test_what_an_item_calls_with_its_config_stands_in_the_item(mode: str, target: Any) -> None:
    edge = vmap(target, batch_key="xs", out_key="ys", name="fan")
    with observed() as seen:
        run(graph_of(edge), {"xs": [1, 2, 3]}, mode, seen.config(True))
        assert sorted(each.item for each in seen.typed("GENERATION")) == [0, 1, 2]
        assert all("vmap:fan" in each.path for each in seen.typed("GENERATION"))


@pytest.mark.parametrize("options", HOW, ids=str)
@pytest.mark.parametrize("target", [passes, passes_later])
@pytest.mark.parametrize("mode", MODES)
def test_that_holds_however_the_item_is_tried(mode: str, target: Any, options: Any) -> None:
    edge = vmap(target, batch_key="xs", out_key="ys", name="fan", **options)
    with observed() as seen:
        run(graph_of(edge, checkpointer=InMemorySaver()), {"xs": list(range(20))}, mode, thread() | seen.config(True))
        assert sorted(each.item for each in seen.typed("GENERATION")) == list(range(20))


@pytest.mark.parametrize("target", PASSING)
@pytest.mark.parametrize("mode", MODES)
def test_what_a_branch_calls_with_its_config_stands_in_the_branch(mode: str, target: Any) -> None:
    edge = parallel({"one": target, "two": target}, name="both", merge=lambda state, updates: {"ys": len(updates)})
    with observed() as seen:
        run(graph_of(edge), {"xs": 1}, mode, seen.config(True))
        assert sorted(each.item for each in seen.typed("GENERATION")) == [0, 1]
        branches = [each.path[-4] for each in seen.typed("GENERATION")]
        assert sorted(branches) == ["one", "two"], [each.path for each in seen.typed("GENERATION")]


@pytest.mark.parametrize("target", [passes, passes_later])
@pytest.mark.parametrize("handed_on", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_nested_edges_whose_config_is_handed_on(mode: str, handed_on: bool, target: Any) -> None:
    inner = vmap(target, batch_key="row", out_key="ys", name="inner", item_to_state=lambda x: {"item": x})

    def calls(state: Any, config: RunnableConfig) -> Any:
        return inner.invoke({"row": state["item"]}, config)["ys"]

    edge = vmap(calls if handed_on else inner, batch_key="xs", out_key="ys", name="outer", item_to_state=lambda row: {"item": row, "row": row})
    with observed() as seen:
        run(graph_of(edge), {"xs": [[1], [2, 3]]}, mode, seen.config(True))
        generations = seen.typed("GENERATION")
        paths = sorted((each.parent.item, each.parent.parent.parent.item) for each in generations)
        assert paths == [(0, 0), (0, 1), (1, 1)]
