"""`FakeLM`: a DSPy language model with scripted answers, without a server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn, Self, cast

import dspy
from dspy import lm15

from mahsm.testing._answers import Answers, Model, Reply, pieces_of, tokens_of
from mahsm.testing._call import Call


class FakeLM(dspy.LM):
    """A `dspy.LM` whose answers are a function of the prompt: deterministic, with usage, price, latency and
    errors.

    Everything but the provider is DSPy's own: adapters, cache, retries, streaming, history, and the types of
    errors.

    Args:
        answers: Its answers: a single answer for every call; a list of answers, of which the last one is
            repeated; or a function of the `Call`, which has instructions, demos and inputs. An answer is a
            string, a mapping (the fields of a DSPy answer), a `ToolCall` or a list of them, or a `Reply` for
            more, such as a status of 429.
        model: Its name, with a provider before the slash.
        latency: Seconds until each answer.
        price: US dollars per million input tokens, and per million output tokens; by default unknown.
        cache: Let DSPy answer equal prompts from its cache.
        num_retries: The number of retries that DSPy makes by itself after a failed call.
        **options: Further options of `dspy.LM`, such as `temperature`.

    Attributes:
        calls: The requests so far, in order of arrival, including those of its copies.
        most_at_once: The highest number of requests that were in progress at the same time.

    Raises:
        ValueError: if `answers` is empty.

    Example:
        >>> import dspy
        >>> from mahsm.testing import FakeLM
        >>> def reply(call):
        ...     return {"answer": "4" if call.inputs["question"] == "2 + 2" else "?"}
        >>> lm = FakeLM(reply, price=(1.0, 2.0))
        >>> with dspy.context(lm=lm):
        ...     dspy.Predict("question -> answer")(question="2 + 2").answer
        '4'
        >>> lm.calls[0].outputs, lm.calls[0].status
        (['answer'], 200)
    """

    def __init__(
        self,
        answers: Answers = "",
        *,
        model: str = "fake/model",
        latency: float = 0.0,
        price: tuple[float, float] | None = None,
        cache: bool = False,
        num_retries: int = 0,
        **options: Any,
    ) -> None:
        provider = _Provider(answers, latency)
        super().__init__(
            model,
            engine=provider,
            async_engine=provider.async_,
            cache=cache,
            num_retries=num_retries,
            **options,
        )
        self._price = price

    @property
    def calls(self) -> list[Call]:
        return self._provider.model.calls

    @property
    def most_at_once(self) -> int:
        return self._provider.model.most_at_once

    @property
    def _provider(self) -> "_Provider":
        return cast("_Provider", self.engine)

    def update_history(self, entry: dict[str, Any]) -> None:
        if self._price is not None and entry["usage"]:
            tokens = (entry["usage"]["prompt_tokens"], entry["usage"]["completion_tokens"])
            entry["cost"] = (
                sum(count * price for count, price in zip(tokens, self._price, strict=True)) / 1_000_000
            )
        super().update_history(entry)


class _Provider:
    """The provider of one `FakeLM` and its copies; DSPy's synchronous engine."""

    def __init__(self, answers: Answers, latency: float) -> None:
        self.model = Model(answers, "FakeLM")
        self.latency = latency
        self.async_ = _AsyncProvider(self)

    # Copies of a program share one provider.
    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def begin(self, request: lm15.Request) -> tuple[Call, Reply, float]:
        messages = [_message(message) for message in request.messages]
        if request.system is not None:
            messages.insert(0, {"role": "system", "content": _text(request.system)})
        tools = [{"type": "function", "function": {"name": tool.name}} for tool in request.tools]
        body = {"model": request.model, "messages": messages, **({"tools": tools} if tools else {})}
        call, reply = self.model.begin(request.model, messages, body)
        return call, reply, self.latency if reply.latency is None else reply.latency

    def end(self, call: Call, reply: Reply) -> lm15.Response:
        self.model.end(call, reply.status)
        if reply.status >= 400:
            _raise(reply)
        tokens_in, tokens_out = tokens_of(call, reply)
        return lm15.Response(
            id=None,
            model=call.model,
            message=lm15.Message.assistant(_parts(call, reply)),
            finish_reason="tool_call" if reply.tool_calls else "stop",
            usage=lm15.Usage(input_tokens=tokens_in, output_tokens=tokens_out),
        )

    def complete(self, request: lm15.Request) -> lm15.Response:
        call, reply, latency = self.begin(request)
        time.sleep(latency)
        return self.end(call, reply)

    def stream(self, request: lm15.Request) -> Iterator[Any]:
        return _events(self.complete(request))


class _AsyncProvider:
    """Async version of `_Provider`."""

    def __init__(self, provider: _Provider) -> None:
        self._provider = provider

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    async def complete(self, request: lm15.Request) -> lm15.Response:
        call, reply, latency = self._provider.begin(request)
        await asyncio.sleep(latency)
        return self._provider.end(call, reply)

    async def stream(self, request: lm15.Request) -> AsyncIterator[Any]:
        for event in _events(await self.complete(request)):
            yield event


def _events(response: lm15.Response) -> Iterator[Any]:
    """Return the events of a response, word by word."""
    for event in lm15.response_to_events(response):
        if isinstance(event, lm15.StreamDeltaEvent) and isinstance(event.delta, lm15.TextDelta):
            yield from (
                replace(event, delta=replace(event.delta, text=piece))
                for piece in pieces_of(event.delta.text)
            )
        else:
            yield event


def _message(message: lm15.Message) -> dict[str, Any]:
    """Convert a message to the format of OpenAI's API."""
    results = [
        part.text
        for result in message.parts
        if isinstance(result, lm15.ToolResultPart)
        for part in _texts(result)
    ]
    calls = [
        {
            "id": part.id,
            "type": "function",
            "function": {"name": part.name, "arguments": json.dumps(dict(part.input))},
        }
        for part in message.parts
        if isinstance(part, lm15.ToolCallPart)
    ]
    said = {"role": message.role, "content": message.text or "".join(results)}
    return {**said, "tool_calls": calls} if calls else said


def _texts(result: lm15.ToolResultPart) -> list[lm15.TextPart]:
    return [part for part in result.content if isinstance(part, lm15.TextPart)]


def _parts(call: Call, reply: Reply) -> list[Any]:
    text = reply.text(call)
    asked = [
        lm15.ToolCallPart(id, one.name, cast("Any", dict(one.args))) for id, one in reply.asked_tools(call)
    ]
    return asked if asked and not text else [lm15.TextPart(text), *asked]


def _text(system: str | Sequence[Any]) -> str:
    return system if isinstance(system, str) else "".join(part.text for part in system)


def _raise(reply: Reply) -> NoReturn:
    raise _kind(reply.status)(str(reply.content), status=reply.status, retry_after=reply.retry_after)


def _kind(status: int) -> type[lm15.ProviderError]:
    """Return the type of error that DSPy's own client raises for an HTTP status."""
    kinds: dict[int, type[lm15.ProviderError]] = {
        401: lm15.AuthError,
        402: lm15.BillingError,
        403: lm15.AuthError,
        408: lm15.TimeoutError,
        429: lm15.RateLimitError,
        504: lm15.TimeoutError,
    }
    return kinds.get(status) or (lm15.ServerError if status >= 500 else lm15.InvalidRequestError)
