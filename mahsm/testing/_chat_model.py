"""`FakeChatModel`: a LangChain chat model that answers as a test says, without a server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr

from mahsm.testing._answers import Answers, Call, Model, Reply, pieces_of, tokens_of


class ModelError(RuntimeError):
    """A model has answered with an error status, as a provider's client reports it.

    Attributes:
        status_code: The HTTP status.
        response: Its `headers`, with a `retry-after` if there is one.
    """

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"Error code: {reply.status} - {reply.content}")
        self.status_code = reply.status
        headers = {} if reply.retry_after is None else {"retry-after": f"{reply.retry_after:g}"}
        self.response = SimpleNamespace(status_code=reply.status, headers=headers)


class FakeChatModel(BaseChatModel):
    """A LangChain chat model whose provider is a function of the messages: deterministic, with tool calls, streams and usage.

    Args:
        answers: What it answers: always the same; or one of a list after the other, the last one again and again; or what a
            function of the `Call` returns. A text is the model's text, a `ToolCall` calls a tool, and a `Reply` says more, such
            as several tool calls or a status of 429.
        model: Its name, with a provider before the slash.
        latency: Seconds that each answer takes.
        **options: What `BaseChatModel` takes besides, such as `rate_limiter` and `cache`.

    Attributes:
        calls: The requests so far, in the order in which they came. `call.tools` are the names of the tools that it was given.
        most_at_once: The most that were being answered at the same time.

    Raises:
        ValueError: if there are no answers.
        ModelError: when called, for an answer with a status from 400 on.

    Example:
        >>> from mahsm.testing import FakeChatModel, ToolCall
        >>> model = FakeChatModel([ToolCall("search", {"query": "buckets"}), "They leak."])
        >>> model.invoke("What of buckets?").tool_calls[0]["args"]
        {'query': 'buckets'}
        >>> model.invoke("What of buckets?").text
        'They leak.'
    """

    model: str = "fake/model"
    latency: float = 0.0
    _model: Model = PrivateAttr()

    def __init__(self, answers: Answers = "", *, model: str = "fake/model", latency: float = 0.0, **options: Any) -> None:
        super().__init__(model=model, latency=latency, **options)  # pyright: ignore[reportCallIssue]
        self._model = Model(answers, "FakeChatModel")

    @property
    def calls(self) -> list[Call]:
        return self._model.calls

    @property
    def most_at_once(self) -> int:
        return self._model.most_at_once

    @property
    def _llm_type(self) -> str:
        return "fake-chat-model"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "answers": id(self._model)}  # two models with other answers share no cache

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        provider, _, name = self.model.rpartition("/")
        return LangSmithParams(ls_provider=provider or "fake", ls_model_name=name, ls_model_type="chat")

    def bind_tools(
        self, tools: "Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool]", **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with tools to call."""
        return cast("Any", self).bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call, reply = self._begin(messages, kwargs)
        time.sleep(self.latency if reply.latency is None else reply.latency)
        return self._result(call, reply)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call, reply = self._begin(messages, kwargs)
        try:
            await asyncio.sleep(self.latency if reply.latency is None else reply.latency)
        except asyncio.CancelledError:
            self._model.end(call, 499)
            raise
        return self._result(call, reply)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for chunk in _chunks(self._generate(messages, stop, **kwargs)):
            if run_manager is not None:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks(await self._agenerate(messages, stop, **kwargs)):
            if run_manager is not None:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    def _begin(self, messages: list[BaseMessage], options: dict[str, Any]) -> tuple[Call, Reply]:
        sent = convert_to_openai_messages(messages)
        return self._model.begin(self.model, sent, {"model": self.model, "messages": sent, **options})

    def _result(self, call: Call, reply: Reply) -> ChatResult:
        self._model.end(call, reply.status)
        if reply.status >= 400:
            raise ModelError(reply)
        tokens_in, tokens_out = tokens_of(call, reply)
        message = AIMessage(
            reply.text(call),
            tool_calls=[tool_call(name=one.name, args=dict(one.args), id=one.id) for one in reply.tool_calls],
            usage_metadata=UsageMetadata(input_tokens=tokens_in, output_tokens=tokens_out, total_tokens=tokens_in + tokens_out),
            response_metadata={"model_name": self.model, "finish_reason": "tool_calls" if reply.tool_calls else "stop"},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def _chunks(result: ChatResult) -> Iterator[ChatGenerationChunk]:
    """A message in the pieces in which a model streams it; the last one has the usage."""
    message = cast("AIMessage", result.generations[0].message)
    for piece in pieces_of(message.text):
        yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
    for index, called in enumerate(message.tool_calls):
        name, given = called["name"], json.dumps(called["args"])
        parts = [tool_call_chunk(name=name, args="", id=called["id"], index=index)]
        parts += [tool_call_chunk(name=None, args=piece, id=None, index=index) for piece in pieces_of(given)]
        for part in parts:
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[part]))
    last = AIMessageChunk(
        content="", usage_metadata=message.usage_metadata, response_metadata=message.response_metadata, chunk_position="last"
    )
    yield ChatGenerationChunk(message=last)
