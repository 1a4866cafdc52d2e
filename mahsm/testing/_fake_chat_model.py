"""`FakeChatModel`: a LangChain chat model with scripted answers, without a server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_openai_messages
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import PrivateAttr

from mahsm.testing._answers import Answers, Model, Reply, StatusError, pieces_of, tokens_of
from mahsm.testing._call import Call


class FakeChatModel(BaseChatModel):
    """A LangChain chat model whose answers are a function of the conversation: deterministic, with tool calls
    and usage.

    It supports streaming and async calls. It requests the tools of `bind_tools`, `with_structured_output` or
    an agent if its answers do. Cache, callbacks and rate limiters are LangChain's own.

    Args:
        answers: Its answers: a single answer for every call; a list of answers, of which the last one is
            repeated; or a function of the `Call`. An answer is a string, a `ToolCall` or a list of them, or a
            `Reply` for more, such as a string with tool calls, the usage, or a status of 429.
        model: Its name, with a provider before the slash.
        latency: Seconds until each answer.
        **options: Options of any LangChain chat model, such as `rate_limiter` and `cache`.

    Attributes:
        calls: The requests so far, in order of arrival, including those of its copies.
        most_at_once: The highest number of requests that were in progress at the same time.

    Raises:
        ValueError: if `answers` is empty.
        StatusError: when it is called, for a `Reply` with a status >= 400. `Reply(raw=...)` is for servers.

    Example:
        >>> from mahsm.testing import FakeChatModel, ToolCall
        >>> model = FakeChatModel(lambda call: ToolCall("add", {"a": 1, "b": 2}) if call.tools else "hello")
        >>> model.invoke("?").content
        'hello'
        >>> def add(a: int, b: int) -> int:
        ...     "Add two numbers."
        ...     return a + b
        >>> model.bind_tools([add]).invoke("1 + 2?").tool_calls
        [{'name': 'add', 'args': {'a': 1, 'b': 2}, 'id': 'call_0', 'type': 'tool_call'}]
        >>> [call.tools for call in model.calls]
        [[], ['add']]
    """

    model: str = "fake/model"
    latency: float = 0.0
    _answering: Model = PrivateAttr()

    def __init__(
        self, answers: Answers = "", *, model: str = "fake/model", latency: float = 0.0, **options: Any
    ) -> None:
        answering = Model(answers, "FakeChatModel")
        given: dict[str, Any] = {"model": model, "latency": latency, **options}
        super().__init__(**given)
        self._answering = answering

    @property
    def calls(self) -> list[Call]:
        return self._answering.calls

    @property
    def most_at_once(self) -> int:
        return self._answering.most_at_once

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools, which a function of the answers finds in `call.tools`."""
        told = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=told, **({"tool_choice": tool_choice} if tool_choice else {}), **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(self._answered(messages, kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return _result(await self._answered_async(messages, kwargs))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        yield from _chunks(self._answered(messages, kwargs))

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in _chunks(await self._answered_async(messages, kwargs)):
            yield chunk

    def _answered(self, messages: list[BaseMessage], options: Mapping[str, Any]) -> AIMessage:
        call, reply, latency = self._begin(messages, options)
        time.sleep(latency)
        return self._end(call, reply)

    async def _answered_async(self, messages: list[BaseMessage], options: Mapping[str, Any]) -> AIMessage:
        call, reply, latency = self._begin(messages, options)
        await asyncio.sleep(latency)
        return self._end(call, reply)

    def _begin(self, messages: list[BaseMessage], options: Mapping[str, Any]) -> tuple[Call, Reply, float]:
        said: Any = convert_to_openai_messages(messages)
        name = self._name_and_provider[0]
        call, reply = self._answering.begin(name, said, {"model": name, "messages": said, **options})
        return call, reply, self.latency if reply.latency is None else reply.latency

    def _end(self, call: Call, reply: Reply) -> AIMessage:
        self._answering.end(call, reply.status)
        if reply.status >= 400:
            raise StatusError(str(reply.content), reply.status, reply.retry_after)
        tokens_in, tokens_out = tokens_of(call, reply)
        name, provider = self._name_and_provider
        return AIMessage(
            reply.text(call),
            tool_calls=[
                tool_call(name=one.name, args=dict(one.args), id=id) for id, one in reply.asked_tools(call)
            ],
            usage_metadata=UsageMetadata(
                input_tokens=tokens_in, output_tokens=tokens_out, total_tokens=tokens_in + tokens_out
            ),
            response_metadata={"model_name": name, "model_provider": provider},
        )

    @property
    def _name_and_provider(self) -> tuple[str, str]:
        provider, _, name = self.model.rpartition("/")
        return name, provider

    @property
    def _llm_type(self) -> str:
        return "fake"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        name, provider = self._name_and_provider
        return {**super()._get_ls_params(stop=stop, **kwargs), "ls_provider": provider, "ls_model_name": name}


def _result(message: AIMessage) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=message)])


def _chunks(message: AIMessage) -> Iterator[ChatGenerationChunk]:
    """Split an answer into chunks: its words, each tool call and then its arguments, and the usage."""
    for piece in pieces_of(message.text):
        yield _chunk(piece)
    for index, one in enumerate(message.tool_calls):
        yield _chunk("", tool_call_chunk(name=one["name"], args="", id=one["id"], index=index))
        for piece in pieces_of(json.dumps(one["args"])):
            yield _chunk("", tool_call_chunk(args=piece, index=index))
    last = AIMessageChunk(
        content="",
        usage_metadata=message.usage_metadata,
        response_metadata=message.response_metadata,
        chunk_position="last",
    )
    yield ChatGenerationChunk(message=last)


def _chunk(text: str, *calls: ToolCallChunk) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=text, tool_call_chunks=list(calls)))
