"""`mahsm.testing`: the APIs of the model server, through the clients of DSPy, LiteLLM and OpenAI."""

import asyncio
import json
from typing import Any

import dspy
import httpx
import openai
import pytest
from dspy import lm15

from mahsm.testing import Call, ModelServer, Reply, ToolCall
from tests.helpers import MODES
from tests.testing.batches import anthropic_client, openai_client, params

CLIENTS: dict[str, dict[str, Any]] = {
    "chat": {"model": "openai/gpt-4o-mini"},
    "responses": {"model": "openai/gpt-4o-mini", "model_type": "responses"},
    "anthropic": {"model": "anthropic/claude-fake"},
}
clients = pytest.mark.parametrize("options", CLIENTS.values(), ids=CLIENTS.keys())


# LiteLLM builds its models when they are first used, in whichever test that is.
@pytest.mark.filterwarnings("ignore:.*on TypedDict class:UserWarning")
@clients
@pytest.mark.parametrize("engine", ["lm15", "litellm"])
def test_a_prompt_of_dspy_is_the_same_call_by_every_api(options: dict[str, Any], engine: str) -> None:
    def answer(call: Call) -> dict[str, str]:
        assert (call.outputs, call.instructions, call.role) == (["answer"], "Answer.", "user")
        assert call.demos == [{"question": "q", "answer": "a"}]
        return {"answer": f"{call.model} {call.field('question')}"}

    predict = dspy.Predict(dspy.Signature("question -> answer", "Answer."))
    predict.demos = [dspy.Example(question="q", answer="a")]
    with ModelServer(answer) as server, dspy.context(lm=server.lm(**options, engine=engine)):
        assert predict(question="why?").answer == f"{options['model'].split('/')[1]} why?"
    assert (server.calls[0].key, server.calls[0].batch) == ("test", None)


@clients
def test_usage(options: dict[str, Any]) -> None:
    with ModelServer(Reply({"answer": "x"}, usage=(12, 3))) as server:
        lm = server.lm(**options)
        with dspy.context(lm=lm):
            dspy.Predict("question -> answer")(question="q")
    usage = lm.history[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (12, 3)


@clients
def test_answers_in_json(options: dict[str, Any]) -> None:
    with ModelServer({"answer": "x", "score": 3}) as server:
        with dspy.context(lm=server.lm(**options), adapter=dspy.JSONAdapter()):
            assert dspy.Predict("question -> answer, score: int")(question="q").score == 3
        assert server.calls[0].wants_json


@clients
@pytest.mark.parametrize("mode", MODES)
def test_a_client_of_dspy_calls_tools(options: dict[str, Any], mode: str) -> None:
    asks = [ToolCall("look_up", {"word": "a"}), ToolCall("look_up", {"word": "b"})]
    said = [lm15.Message.user("?")]
    with ModelServer([Reply("let me see", tool_calls=asks), "A and B"]) as server:
        lm: Any = server.lm(**options)
        for _ in range(2):
            request = lm15.Request(
                model=lm.model,
                messages=tuple(said),
                tools=(lm15.FunctionTool("look_up"),),
                system="Look it up.",
                config=lm15.Config(max_tokens=100),
            )
            response = lm(request) if mode == "sync" else asyncio.run(lm.acall(request))
            asked = [part for part in response.message.parts if isinstance(part, lm15.ToolCallPart)]
            found = [
                lm15.ToolResultPart(one.id, (lm15.TextPart(one.input["word"].upper()),)) for one in asked
            ]
            said += [response.message, *(lm15.Message("tool", (one,)) for one in found)]
    assert response.message.text == "A and B"
    first, last = server.calls
    assert (first.role, first.text, first.tools) == ("user", "?", ["look_up"])
    assert (last.role, last.text, last.messages[0]["role"]) == ("tool", "B", "system")
    called = [one["function"] for message in last.messages for one in message.get("tool_calls") or ()]
    assert [json.loads(one["arguments"]) for one in called] == [{"word": "a"}, {"word": "b"}]


@clients
@pytest.mark.parametrize(
    ("status", "kind"), [(429, dspy.LMRateLimitError), (500, dspy.LMServerError), (401, dspy.LMAuthError)]
)
def test_errors_reach_the_client_by_their_type(options: dict[str, Any], status: int, kind: Any) -> None:
    server = ModelServer(Reply("no", status=status))
    with server, dspy.context(lm=server.lm(**options)), pytest.raises(kind, match="no"):
        dspy.Predict("question -> answer")(question="q")


@clients
def test_streams(options: dict[str, Any]) -> None:
    async def pieces(lm: Any) -> tuple[list[str], Any]:
        request = lm15.Request(
            model=lm.model, messages=(lm15.Message.user("?"),), config=lm15.Config(max_tokens=100)
        )
        events = [event async for event in lm15_of(server, lm).stream(request)]
        deltas = [event.delta for event in events if isinstance(event, lm15.StreamDeltaEvent)]
        return [delta.text for delta in deltas if isinstance(delta, lm15.TextDelta)], events[-1]

    with ModelServer(Reply("one two", tool_calls=[ToolCall("f", {"x": 1})], usage=(5, 2))) as server:
        texts, end = asyncio.run(pieces(server.lm(**options)))
    assert ([text for text in texts if text], end.finish_reason) == (["one", " two"], "tool_call")
    assert end.usage is None or (end.usage.input_tokens, end.usage.output_tokens) == (5, 2)


def lm15_of(server: ModelServer, lm: Any) -> Any:
    """The client of `dspy.lm15` for the API that a DSPy client uses."""
    provider, name = lm.model.split("/")
    if lm.model_type == "chat" and provider == "openai":
        provider = "openai-chat"
    config = lm15.RouterConfig(api_keys={provider: "test"}, base_urls={provider: server.base_url})
    lm.model = name
    return lm15.AsyncLMRouter(config).lm(f"{provider}:{name}")


def test_openais_client_of_the_responses_api() -> None:
    with ModelServer(["Hi", ToolCall("f", {"x": 1})]) as server, openai_client(server) as client:
        answer = client.responses.create(model="gpt-4o-mini", input="Hello", instructions="Be kind.")
        called = client.responses.create(
            model="gpt-4o-mini",
            input=[{"role": "user", "content": "?"}, {"type": "reasoning", "id": "r", "summary": []}],
        )
        with client.responses.stream(model="gpt-4o-mini", input="?") as stream:
            final = stream.get_final_response()
    assert (answer.output_text, answer.status, answer.instructions) == ("Hi", "completed", "Be kind.")
    assert [message["role"] for message in server.calls[0].messages] == ["system", "user"]
    assert [(item.type, getattr(item, "arguments", None)) for item in called.output] == [
        ("function_call", '{"x": 1}')
    ]
    assert [item.type for item in final.output] == ["function_call"]
    assert len(server.calls[1].messages) == 1, "items of reasoning are no messages"


@pytest.mark.parametrize("body", [{}, {"model": "m"}, {"model": "m", "input": [{"type": "message"}]}])
def test_a_request_to_the_responses_api_that_is_not_valid(body: dict[str, Any]) -> None:
    with ModelServer() as server, openai_client(server) as client, pytest.raises(openai.BadRequestError):
        client.post("/responses", body=body, cast_to=object)
    assert server.calls == []


def test_a_request_to_anthropics_api_that_is_not_valid() -> None:
    marked = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}] * 5
    with ModelServer() as server, anthropic_client(server) as client:
        errors = [
            client.post("/messages", json=body).json()["error"]["message"]
            for body in (params("a", max_tokens=None), params("a", system=marked))
        ]
    assert errors == [
        "Missing required parameter: 'max_tokens'.",
        "A maximum of 4 blocks with cache_control may be provided. Found 5.",
    ]


def test_parts_of_messages_of_anthropics_api() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "found"}]}
    with ModelServer("yes") as server, anthropic_client(server) as client:
        user = {"role": "user", "content": [result, {"type": "text", "text": "and?"}]}
        answer = client.post("/messages", json=params("", messages=[user])).json()
    assert (answer["stop_reason"], answer["content"][0]["text"]) == ("end_turn", "yes")
    assert [message["role"] for message in server.calls[0].messages] == ["tool", "user"]
    assert server.calls[0].text == "and?"


def test_a_body_that_is_not_json_is_refused() -> None:
    with ModelServer() as server:
        url = f"{server.base_url}/chat/completions"
        answer = httpx.post(url, content=b"{", headers={"Connection": "close"})
    assert (answer.status_code, "could not parse" in answer.json()["error"]["message"]) == (400, True)


def test_an_answer_without_a_text_is_an_error_of_the_script() -> None:
    server = ModelServer({"answer": object()})

    def fails() -> None:
        with server, openai_client(server) as client:
            client.responses.create(model="gpt-4o-mini", input="?")

    with pytest.raises(openai.InternalServerError, match="not JSON serializable"):
        fails()
    assert [type(error) for error in server.raised] == [TypeError]
