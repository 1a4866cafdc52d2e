"""Direct calls: what comes back, of which prompts, sync, async and token by token."""

import asyncio
import copy
import pickle
import threading
import traceback
from collections.abc import AsyncIterator
from typing import Any, Literal

import dspy
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

import mahsm
from mahsm import Response, models
from mahsm.errors import ModelError
from mahsm.testing import FakeChatModel, FakeLM, ModelServer, Reply

PRICED = "openai/gpt-4o-mini"


class City(BaseModel):
    name: str
    people: int


def test_a_response_has_text_usage_cost_and_model() -> None:
    with ModelServer(Reply("Rome", usage=(1000, 10))) as server:
        response = models(PRICED, "Capital?", api_base=server.base_url, cache=False)
    assert (str(response), f"{response:>6}", response.text) == ("Rome", "  Rome", "Rome")
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.tokens) == (
        1000,
        10,
        1010,
    )
    assert response.cost == pytest.approx(1000 * 0.15e-6 + 10 * 0.6e-6)
    assert (response.model, response.cached) == ("gpt-4o-mini", False)
    assert response.raw is not None


def test_an_awaited_call_is_the_same() -> None:
    with ModelServer(Reply("Rome", usage=(10, 1))) as server:
        options = {"api_base": server.base_url, "cache": False}
        awaited = asyncio.run(models.acall(PRICED, "Capital?", **options))
        assert awaited == models(PRICED, "Capital?", **options)
    assert (awaited.usage.tokens, awaited.model) == (11, "gpt-4o-mini")


def test_a_cached_answer_costs_nothing() -> None:
    with ModelServer(Reply("Rome", usage=(10, 1))) as server:
        prompt = f"Capital? {server.base_url}"
        responses = [models(PRICED, prompt, api_base=server.base_url) for _ in range(2)]
        assert len(server.calls) == 1
    assert [one.cached for one in responses] == [False, True]
    assert (responses[1].cost, responses[1].usage.tokens) == (0, 0)


def test_an_unknown_price_is_none() -> None:
    assert models(FakeLM("x"), "q").cost is None


def test_calls_of_many_threads_do_not_mix_up_their_usage() -> None:
    def answer(call: Any) -> Reply:
        number = int(call.text)
        return Reply(str(number), usage=(number, 1))

    with ModelServer(answer) as server:
        ask = models.instance("openai/fake", api_base=server.base_url, cache=False)
        edge = mahsm.vmap(
            lambda state: ask(str(state["item"])), batch_key="xs", out_key="ys", max_concurrency=16
        )
        responses = edge.invoke({"xs": list(range(1, 101))})["ys"]
    assert [(one.text, one.usage.input_tokens) for one in responses] == [(str(n), n) for n in range(1, 101)]


def test_equal_texts_are_equal_responses() -> None:
    ours, theirs = models(FakeLM("yes"), "a"), models(FakeLM("yes", model="other/model"), "a longer prompt")
    assert ours == theirs
    assert len({ours, theirs}) == 1
    assert mahsm.reducers.majority_vote([ours, theirs, models(FakeLM("no"), "a")]).text == "yes"


def test_a_response_is_frozen_and_pickled_without_raw() -> None:
    response = models(FakeLM("yes"), "a")
    with pytest.raises(AttributeError):
        response.text = "no"  # type: ignore[misc]
    loaded = pickle.loads(pickle.dumps(response))
    assert (loaded, loaded.usage, loaded.raw) == (response, response.usage, None)
    assert copy.copy(response) == copy.deepcopy(response) == response


@pytest.mark.parametrize(
    "text", ['{"a": [1]}', ' {"a": [1]}\n', '```json\n{"a": [1]}\n```', '```\n{"a": [1]}\n```']
)
def test_json_of_a_response(text: str) -> None:
    assert Response(text).json() == {"a": [1]}


def test_a_response_that_is_not_json() -> None:
    with pytest.raises(ValueError, match=r"the response is not JSON \(.*\): 'Rome'. Ask for a type instead"):
        Response("Rome").json()


# Prompts.


def said(lm: FakeLM) -> list[tuple[str, Any]]:
    return [(one["role"], one["content"]) for one in lm.calls[-1].messages]


@pytest.mark.parametrize(
    "prompt",
    [
        [("user", "a"), ("assistant", "b"), ("user", "c")],
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ],
    ],
)
def test_messages_keep_their_roles(prompt: Any) -> None:
    lm = FakeLM("yes")
    assert models(lm, prompt, system="brief").text == "yes"
    assert said(lm) == [("system", "brief"), ("user", "a"), ("assistant", "b"), ("user", "c")]


def test_messages_of_langchain() -> None:
    from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

    lm = FakeLM("yes")
    models(lm, [SystemMessage("brief"), HumanMessage("a"), AIMessage("b"), HumanMessage("c")])
    assert said(lm) == [("system", "brief"), ("user", "a"), ("assistant", "b"), ("user", "c")]


def test_one_message_alone() -> None:
    lm = FakeLM("yes")
    models(lm, {"role": "user", "content": "a"})
    assert said(lm) == [("user", "a")]


@pytest.mark.parametrize("prompt", ["a", [("user", "a")]])
def test_an_empty_answer_is_an_empty_text(prompt: Any) -> None:
    assert models(FakeLM(""), prompt).text == ""


def test_parts_and_images_are_one_message() -> None:
    with ModelServer("a cat") as server:
        image = dspy.Image("data:image/png;base64,AAAA")
        assert models(server.lm(), ["What is this?", image]).text == "a cat"
        content = server.calls[0].messages[0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"]
    assert content[1]["image_url"]["url"] == "data:image/png;base64,AAAA"


def test_a_response_is_part_of_a_prompt() -> None:
    lm = FakeLM("yes")
    models(lm, ["Is this right?", models(lm, "a")])
    assert said(lm)[0][0] == "user"
    assert "yes" in str(said(lm)[0][1])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "the prompt is empty"),
        (None, "the prompt is None"),
        (3, "3 cannot be part of a prompt; expected strings, dspy.Image and the like"),
        ([("a", 3)], r"\('a', 3\) cannot be part of a prompt"),
        ([{"role": "robot", "content": "x"}], "a message has the role 'robot'; expected one of 'system'"),
        ({"x": 1, "y": object()}, "cannot be part of a prompt"),
    ],
)
def test_a_wrong_prompt(prompt: Any, message: str) -> None:
    if isinstance(prompt, dict):
        prompt = [object()]
    with pytest.raises(ModelError, match=message):
        models(FakeLM("x"), prompt)


# Structured outputs.


def test_a_structured_output_is_typed() -> None:
    lm = FakeLM({"output": '{"name": "Rome", "people": 3}'})
    response = models(lm, "Capital of Italy?", output=City)
    assert response.output == City(name="Rome", people=3)
    assert "Rome" in response.text
    assert asyncio.run(models.acall(lm, "Capital of Italy?", output=City)).output == response.output


@pytest.mark.parametrize(
    ("kind", "said", "value"),
    [(float, "0.5", 0.5), (bool, "True", True), (Literal["a", "b"], "a", "a"), (list[int], "[1, 2]", [1, 2])],
)
def test_any_type_can_be_an_output(kind: Any, said: str, value: Any) -> None:
    assert models(FakeLM({"output": said}), "q", output=kind).output == value


def test_a_conversation_with_a_structured_output() -> None:
    lm = FakeLM({"output": "3"})
    turns = [("system", "count"), ("user", "one"), ("assistant", "1"), ("user", "three")]
    assert models(lm, turns, output=int).output == 3
    assert [role for role, _ in said(lm)] == ["system", "user", "assistant", "user"]
    assert "count" in said(lm)[0][1]
    assert "three" in said(lm)[-1][1]


def test_an_image_with_a_structured_output() -> None:
    with ModelServer({"output": "2"}) as server:
        image = dspy.Image("data:image/png;base64,AAAA")
        assert models(server.lm(), ["How many?", image], output=int).output == 2
        assert "image_url" in str(server.calls[0].messages)


def test_a_call_leaves_nothing_in_the_trace_of_an_optimiser() -> None:
    trace: list[Any] = []
    with dspy.context(trace=trace):
        models(FakeLM({"output": "3"}), "q", output=int)
    assert trace == []


def test_the_usage_of_a_second_attempt_of_an_adapter_counts() -> None:
    replies = [Reply("nonsense", usage=(10, 1)), Reply('{"output": 3}', usage=(20, 2))]
    with ModelServer(replies) as server:
        response = models(server.lm(), "q", output=int)
    assert (response.output, response.usage.input_tokens, response.usage.output_tokens) == (3, 30, 3)


# Streams.


def test_a_stream_gives_the_parts_and_then_the_response() -> None:
    with ModelServer(Reply("one two three", usage=(5, 3))) as server:
        stream = models.stream(server.lm(), "Count.")
        with pytest.raises(RuntimeError, match="the stream has not ended; read all of its parts"):
            _ = stream.response
        assert list(stream) == ["one", " two", " three"]
        assert (stream.response.text, stream.response.usage.tokens) == ("one two three", 8)
        with pytest.raises(RuntimeError, match="the stream was read already"):
            list(stream)


def test_an_awaited_stream() -> None:
    async def read() -> tuple[list[str], Response]:
        stream = models.astream(server.lm(), [("user", "Count.")])
        return [part async for part in stream], stream.response

    with ModelServer("one two three") as server:
        parts, response = asyncio.run(read())
    assert (parts, response.text) == (["one", " two", " three"], "one two three")


def test_a_stream_of_a_cached_answer_is_one_part() -> None:
    with ModelServer("one two") as server:
        prompt = f"Count. {server.base_url}"
        assert list(models.stream("openai/m", prompt, api_base=server.base_url)) == ["one", " two"]
        stream = models.stream("openai/m", prompt, api_base=server.base_url)
        assert list(stream) == ["one two"]
        assert stream.response.cached


def test_an_error_comes_out_of_a_stream() -> None:
    with ModelServer(Reply("no", status=400)) as server:
        with pytest.raises(dspy.LMError):
            list(models.stream(server.lm(), "q"))

        async def read() -> None:
            async for _ in models.astream(server.lm(), "q"):
                pass

        with pytest.raises(dspy.LMError):
            asyncio.run(read())


class Stalls:
    """An engine of DSPy's that stalls after the first part of its answer."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.cancelled = threading.Event()

    async def complete(self, request: Any) -> Any:
        return await self._engine.complete(request)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        try:
            async for event in self._engine.stream(request):
                yield event
                if event.type == "delta":
                    await asyncio.sleep(3600)
        finally:
            self.cancelled.set()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_stream_that_is_left_is_cancelled(is_async: bool) -> None:
    async def read() -> None:
        async with models.astream(lm, "q") as stream:
            async for _ in stream:
                break
        assert await asyncio.to_thread(engine.cancelled.wait, 30)

    fake = FakeLM("one two three")
    engine = Stalls(fake._provider.async_)
    lm = dspy.LM("fake/m", engine=fake.engine, async_engine=engine, cache=False)
    if is_async:
        asyncio.run(read())
    else:
        for _ in models.stream(lm, "q"):
            break
    assert engine.cancelled.wait(30)


# LangChain's chat models.


def test_a_chat_model_is_a_model() -> None:
    chat = FakeChatModel(Reply("yes", usage=(7, 2)))
    response = models(chat, "Well?", system="brief")
    assert (response.text, response.usage.tokens) == ("yes", 9)
    assert asyncio.run(models.acall(chat, "Well?")).text == "yes"
    assert "".join(models.stream(chat, "Well?")) == "yes"
    assert response.raw.content == "yes"


def test_calls_of_a_chat_model_are_counted() -> None:
    chat = FakeChatModel(Reply("yes", usage=(7, 2)))
    with mahsm.usage() as used:
        models.instance(chat)("Well?")
    assert (used.calls, used.tokens) == (1, 9)


def test_a_chat_model_is_no_lm() -> None:
    with pytest.raises(ModelError, match="FakeChatModel is a chat model of LangChain's, and DSPy"):
        _ = models.instance(FakeChatModel("x")).lm


def test_the_prompt_and_the_model_are_positional() -> None:
    for name in ("messages", "prompt", "model"):
        with pytest.raises(ModelError, match=f"models: {name}= is no option; expected the model, and then"):
            models(FakeLM("yes"), "Hello", **{name: "x"})


def test_a_type_that_cannot_be_an_output() -> None:
    class Unknown:
        pass

    with pytest.raises(ModelError, match=r"output=.*Unknown.* cannot be a structured output"):
        models(FakeLM("yes"), "Hello", output=Unknown)


def test_the_key_of_a_chat_model_is_masked_in_its_errors() -> None:
    key = "an-unusual-key-8817"
    refusal = Reply(f"Incorrect API key: {key}", status=401)
    with ModelServer(refusal) as server:
        chat = ChatOpenAI(model="m", api_key=SecretStr(key), base_url=server.base_url, max_retries=0)
        with pytest.raises(Exception, match="401") as caught:
            models(chat, "Hello")
    assert key not in "".join(traceback.format_exception(caught.value))
