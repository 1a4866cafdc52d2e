"""Requests in jobs have the schemas and tools that ordinary calls of the model have."""

from typing import Any

import dspy
import pytest

from mahsm.testing import ModelServer
from tests.helpers import MODES, run


class Searched(dspy.Signature):
    """Answer."""

    item: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    answer: str = dspy.OutputField()
    calls: dspy.ToolCalls = dspy.OutputField()


def search(query: str) -> str:
    """Search for something."""
    return query


@pytest.mark.parametrize("model", ["openai/gpt-4o-mini", "anthropic/claude-haiku-4-5-20251001"])
@pytest.mark.parametrize("mode", MODES)
def test_a_schema_of_answers_reaches_the_provider(
    mode: str, model: str, server: ModelServer, edge_of: Any
) -> None:
    with dspy.context(lm=server.lm(model, max_tokens=100), adapter=dspy.JSONAdapter()):
        assert run(edge_of(), {"xs": ["a"]}, mode)["ys"] == ["A"]
        assert run(edge_of(batch_api=None), {"xs": ["a"]}, mode)["ys"] == ["A"]
    assert ["json_schema" in str(call.body) for call in server.calls] == [True, True]


@pytest.mark.parametrize("mode", MODES)
def test_tools_reach_the_provider(mode: str, server: ModelServer, edge_of: Any) -> None:
    ask = dspy.Predict(Searched)

    async def target(state: Any) -> Any:
        return {"answer": (await ask.acall(item=state["item"], tools=[dspy.Tool(search)])).answer}

    with dspy.context(adapter=dspy.JSONAdapter()):
        assert run(edge_of(target), {"xs": ["a"]}, mode)["ys"] == ["A"]
        assert run(edge_of(target, batch_api=None), {"xs": ["a"]}, mode)["ys"] == ["A"]
    assert [len(call.body["tools"]) for call in server.calls] == [1, 1]
