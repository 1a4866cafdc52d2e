"""`mahsm.testing`: the model server, against a real client."""

import asyncio
import functools
import http.client
import json
import operator
import threading
from typing import Any

import dspy
import httpx
import pytest
from dspy import lm15
from pydantic import BaseModel

import mahsm.testing
from mahsm import vmap
from mahsm.testing import Call, FakeLM, ModelServer, Reply, ToolCall
from tests.helpers import MODES, chat_model, run
from tests.test_package import in_new_process


def ask(server: ModelServer, **options: Any) -> Any:
    with dspy.context(lm=server.lm(**options)):
        return dspy.Predict("question -> answer")(question="q").answer


def test_a_text_a_mapping_and_a_reply() -> None:
    with ModelServer("[[ ## answer ## ]]\ntext") as server:
        assert ask(server) == "text"
    with ModelServer({"answer": "mapping"}) as server:
        assert ask(server) == "mapping"
    with ModelServer(Reply({"answer": "reply"})) as server:
        assert ask(server) == "reply"


def test_answers_one_after_the_other_the_last_again_and_again() -> None:
    with ModelServer([{"answer": "1"}, {"answer": "2"}]) as server:
        assert [ask(server) for _ in range(3)] == ["1", "2", "2"]


def test_no_answers_at_all() -> None:
    with pytest.raises(ValueError, match="answers is empty; expected at least one"):
        ModelServer([])


def test_a_function_sees_the_call() -> None:
    with ModelServer(lambda call: {"answer": f"{call.model} {call.field('question')}"}) as server:
        assert ask(server) == "fake q"
    call = server.calls[0]
    assert (call.status, call.messages[0]["role"]) == (200, "system")
    assert call.ended is not None
    assert call.ended >= call.began
    with pytest.raises(KeyError, match="document"):
        call.field("document")


def test_a_field_of_several_paragraphs() -> None:
    fields = "[[ ## doc ## ]]\none\n\ntwo\n\n[[ ## question ## ]]\nwhy?"
    text = f"{fields}\n\nRespond with the corresponding output fields"
    call = Call("fake", [{"role": "user", "content": text}], {}, 0.0)
    assert (call.field("doc"), call.field("question")) == ("one\n\ntwo", "why?")
    assert Call("fake", [], {}, 0.0).text == ""


def test_usage_reaches_the_client() -> None:
    with ModelServer(Reply({"answer": "x"}, usage=(12, 3))) as server:
        lm = server.lm()
        with dspy.context(lm=lm):
            dspy.Predict("question -> answer")(question="q")
    usage = lm.history[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (12, 3, 15)


FAILURES: dict[str, tuple[Reply, str]] = {
    "rate limit": (Reply.rate_limited(retry_after=7), "LMRateLimitError"),
    "server error": (Reply.failed(503), "LMServerError"),
    "no key": (Reply.failed(401), "LMAuthError"),
    "bad request": (Reply.failed(400), "LMInvalidRequestError"),
    "malformed": (Reply.malformed(), "LMProviderError"),
}


@pytest.mark.parametrize(("reply", "name"), FAILURES.values(), ids=FAILURES.keys())
def test_failures_reach_the_client_by_their_type(reply: Reply, name: str) -> None:
    with ModelServer(reply) as server, pytest.raises(dspy.LMError) as caught:
        ask(server)
    assert type(caught.value).__name__ == name
    if reply.retry_after:
        assert getattr(caught.value, "retry_after", None) == 7
    assert len(server.calls) == 1, "the client does not retry unless told so"


def test_an_error_in_a_function_of_answers_is_said() -> None:
    def broken(_: Call) -> str:
        raise LookupError("no such answer")

    with pytest.raises(LookupError, match="no such answer"), ModelServer(broken) as server:  # noqa: PT012
        with pytest.raises(dspy.LMServerError, match="no such answer"):
            ask(server)
        assert [str(error) for error in server.raised] == ["no such answer"]


def test_a_failure_of_the_test_itself_counts_before_that_of_answers() -> None:
    def broken(_: Call) -> str:
        raise LookupError("no such answer")

    with pytest.raises(dspy.LMServerError), ModelServer(broken) as server:
        ask(server)


@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
def test_structured_output_of_langchain(method: Any) -> None:
    class Grade(BaseModel):
        """A grade."""

        ok: bool

    answer: Any = ToolCall("Grade", {"ok": True}) if method == "function_calling" else {"ok": True}
    with ModelServer(answer) as server:
        grade: Any = (
            chat_model(server.base_url).with_structured_output(Grade, method=method).invoke("answer in JSON")
        )
    assert grade.ok


def test_most_at_once_and_latency() -> None:
    both = threading.Barrier(2)

    def together(_: Call) -> dict[str, str]:
        both.wait(10)
        return {"answer": "x"}

    edge = vmap(
        dspy.Predict("item -> answer"), batch_key="xs", out_key="ys", result="answer", max_concurrency=2
    )
    with ModelServer(together, latency=0.001) as server, dspy.context(lm=server.lm()):
        assert edge.invoke({"xs": ["a", "b", "c", "d"]})["ys"] == ["x"] * 4
    assert server.most_at_once == 2


def test_other_paths_are_not_found() -> None:
    with ModelServer() as server:
        connection = http.client.HTTPConnection("127.0.0.1", int(server.base_url.split(":")[2].split("/")[0]))
        connection.request("POST", "/v1/embeddings", body="{}")
        response = connection.getresponse()
        assert (response.status, "only has" in json.loads(response.read())["error"]["message"]) == (
            404,
            True,
        )
        connection.close()


def test_a_client_that_is_gone_is_not_an_error_of_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    with ModelServer("yes", latency=0.05) as server, pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.base_url}/chat/completions", json={"messages": []}, timeout=0.01)
    assert "Traceback" not in capfd.readouterr().err


# Calls of tools.

SEARCH = {
    "type": "function",
    "function": {"name": "search", "parameters": {"type": "object", "properties": {}}},
}
PARALLEL = [ToolCall("search", {"q": "a b", "n": 2}), ToolCall("search", id="mine")]


def completion(server: ModelServer, **body: Any) -> Any:
    """What the server sends to a client without any library, as JSON, or as the chunks of a stream."""
    messages = body.pop("messages", [{"role": "user", "content": "?"}])
    url = f"{server.base_url}/chat/completions"
    answer = httpx.post(
        url, json={"model": "fake", "messages": messages, **body}, headers={"Connection": "close"}
    )
    if not body.get("stream"):
        return answer.json()
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_call_of_a_tool() -> None:
    with ModelServer(ToolCall("search", {"q": "x"})) as server:
        choice = completion(server, tools=[SEARCH])["choices"][0]
        assert server.calls[0].tools == ["search"]
    called = {"id": "call_0", "type": "function", "function": {"name": "search", "arguments": '{"q": "x"}'}}
    assert choice["message"] == {"role": "assistant", "content": None, "tool_calls": [called]}
    assert choice["finish_reason"] == "tool_calls"


def test_ids_of_tool_calls_count_those_of_the_conversation() -> None:
    asked = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_0"}, {"id": "mine"}]}
    with ModelServer(lambda call: PARALLEL) as server:
        calls = completion(server, messages=[asked])["choices"][0]["message"]["tool_calls"]
    assert [call["id"] for call in calls] == ["call_2", "mine"]


def test_calls_and_a_text_in_one_answer() -> None:
    with ModelServer(Reply("let me see", tool_calls=PARALLEL)) as server:
        message = completion(server)["choices"][0]["message"]
    assert (message["content"], len(message["tool_calls"])) == ("let me see", 2)


def test_the_last_message_may_be_of_a_tool_or_have_parts() -> None:
    tool = {
        "role": "tool",
        "tool_call_id": "call_0",
        "content": [{"type": "text", "text": "so"}, {"type": "image_url"}],
    }
    call = Call("fake", [{"role": "assistant", "content": None}, tool], {}, 0.0)
    assert (call.role, call.text, call.tools) == ("tool", "so", [])
    assert Call("fake", [], {}, 0.0).role == ""


@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_of_tool_calls(usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if usage else {}
    with ModelServer(Reply("let me", tool_calls=PARALLEL, usage=(5, 2))) as server:
        chunks = completion(server, stream=True, **options)
    if usage:
        last = chunks.pop()
        assert (last["choices"], last["usage"]["total_tokens"]) == ([], 7)
    assert not any("usage" in chunk for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "let me"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + [
        "tool_calls"
    ]
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
    assert [
        (piece["index"], piece["id"], piece["function"]["name"]) for piece in pieces if "id" in piece
    ] == [
        (0, "call_0", "search"),
        (1, "mine", "search"),
    ]
    assert len(pieces) > 4, "arguments come in pieces"
    for index, args in enumerate([{"q": "a b", "n": 2}, {}]):
        assert (
            json.loads("".join(piece["function"]["arguments"] for piece in pieces if piece["index"] == index))
            == args
        )


def test_an_answer_that_is_none_is_said() -> None:
    for wrong in (5, [], ["text"]):
        expected = "is not a valid answer; expected a string, a mapping, a ToolCall"
        with pytest.raises(TypeError, match=expected), ModelServer(lambda call, wrong=wrong: wrong) as server:
            assert expected in completion(server)["error"]["message"]


@pytest.mark.parametrize("mode", MODES)
def test_an_openai_client_of_langchain_gets_them(mode: str) -> None:
    with ModelServer([PARALLEL, "done"]) as server:
        model = chat_model(server.base_url, stream_usage=True).bind_tools([SEARCH])
        message = run(model, "?", mode)
        assert [call["args"] for call in message.tool_calls] == [{"q": "a b", "n": 2}, {}]
        assert streamed(model, mode).content == "done"
    with ModelServer(lambda call: PARALLEL) as server:
        whole = streamed(chat_model(server.base_url, stream_usage=True).bind_tools([SEARCH]), mode)
    assert [(call["id"], call["args"]) for call in whole.tool_calls] == [
        ("call_0", {"q": "a b", "n": 2}),
        ("mine", {}),
    ]
    assert whole.usage_metadata["total_tokens"] > 0


def streamed(model: Any, mode: str) -> Any:
    """All chunks of a stream in one."""

    async def chunks() -> list[Any]:
        return [chunk async for chunk in model.astream("?")]

    return functools.reduce(operator.add, model.stream("?") if mode == "sync" else asyncio.run(chunks()))


@pytest.mark.parametrize("kind", ["server", "fake"])
def test_a_client_of_dspy_gets_them(kind: str) -> None:
    asks = [ToolCall("look_up", {"word": "a"}), ToolCall("look_up", {"word": "b"})]
    answers = [asks, Reply("one more", tool_calls=asks[:1]), "A and B"]
    said = [lm15.Message.user("?")]
    with ModelServer(answers) as server:
        lm: Any = server.lm() if kind == "server" else FakeLM(answers)
        for _ in answers:
            response = lm(
                lm15.Request(model=lm.model, messages=tuple(said), tools=(lm15.FunctionTool("look_up"),))
            )
            asked = [part for part in response.message.parts if isinstance(part, lm15.ToolCallPart)]
            results = [
                lm15.ToolResultPart(part.id, (lm15.TextPart(part.input["word"].upper()),)) for part in asked
            ]
            said += [response.message, *(lm15.Message("tool", (result,)) for result in results)]
        calls = server.calls if kind == "server" else lm.calls
    assert [(call.role, call.text, call.tools) for call in calls] == [
        (role, text, ["look_up"]) for role, text in (("user", "?"), ("tool", "B"), ("tool", "A"))
    ]
    assert response.message.text == "A and B"
    asked = [call for message in calls[2].messages for call in message.get("tool_calls") or ()]
    assert [(call["id"], json.loads(call["function"]["arguments"])) for call in asked] == [
        ("call_0", {"word": "a"}),
        ("call_1", {"word": "b"}),
        ("call_2", {"word": "a"}),
    ]


def test_names_come_when_they_are_first_used() -> None:
    heavy = "'langchain_core' in sys.modules, 'dspy' in sys.modules"
    code = f"import sys, mahsm.testing as t; print(t.ToolCall.__name__, {heavy})"
    assert in_new_process(code) == "ToolCall False False"
    with pytest.raises(AttributeError, match="has no attribute 'FakeModel'"):
        _ = mahsm.testing.FakeModel
