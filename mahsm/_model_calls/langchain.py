"""Callback handlers that observe LangChain's calls, and that make them wait for rate limits.

LangChain calls its handlers just before it makes a call, in the thread or on the event loop that makes it. So
a handler is the place where a call can wait in line. Blocking code waits in the first handler; if an event
loop runs, the second one awaits.
"""

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook

from mahsm._common import Answer
from mahsm._model_calls import calls
from mahsm._model_calls.client_retries import obey_edges
from mahsm._model_calls.prices import cached_in, price_of
from mahsm._waiting import TASK, THREAD, Closed, run_blocking
from mahsm.errors import EdgeError


class _HearsModels(BaseCallbackHandler):
    """A handler that is told of calls of models, and of nothing around them."""

    hears_only_models = True
    """Edges make no run of an item for it. LangChain does not know this name."""

    @property
    def ignore_chain(self) -> bool:
        return True

    @property
    def ignore_agent(self) -> bool:
        return True

    @property
    def ignore_retriever(self) -> bool:
        return True

    @property
    def ignore_retry(self) -> bool:
        return True

    @property
    def ignore_custom_event(self) -> bool:
        return True


class _Sees(_HearsModels):
    """Counts calls and the usage that they report; blocking calls wait here for their rate limit."""

    run_inline = True
    # Lets the error of a refused call reach the caller.
    raise_error = True

    def __init__(self) -> None:
        self._asked = OrderedDict[UUID, dict[str, Any]]()

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        self._begin(run_id, messages, kwargs)

    def on_llm_start(
        self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        self._begin(run_id, prompts, kwargs)

    def _begin(self, run_id: UUID, prompts: Sequence[Any], told: dict[str, Any]) -> None:
        calls.check_refused()
        here, blocks = calls.here(), _running_loop() is None
        if here.batched is not None:
            raise EdgeError(
                "batch_api=: a model of LangChain was called, and its calls cannot be batched. Call a model "
                "of DSPy in its place, or leave batch_api= out."
            )
        if not here.clients_retry:
            # The item may have imported the client after `observed` was entered.
            obey_edges()
        if here.gate is not None and blocks:
            here.gate.passed[run_id] = run_blocking(here.gate.enter(THREAD, _characters(prompts, told)))
        self._asked[run_id] = told.get("metadata") or {}
        # LangChain does not report the end of a call that is cancelled, so the oldest entries are dropped.
        while len(self._asked) > _MOST_OPEN:
            self._asked.popitem(last=False)
        # In the remaining case, `_Waits` reports the start, after the call has been admitted.
        if here.gate is None or blocks:
            calls.begin_call()

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        asked = self._asked.pop(run_id, {})
        first = next((generations[0] for generations in response.generations if generations), None)
        message = first.message if isinstance(first, ChatGeneration) else None
        fresh = bool(response.llm_output)
        answer = (
            answer_of_message(message, fresh=fresh, asked=asked)
            if isinstance(message, AIMessage)
            else Answer(known=False)
        )
        calls.end_call(answer, admitted=_admitted(run_id))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._asked.pop(run_id, None)
        calls.end_call(None, error, _admitted(run_id))


class _Waits(_HearsModels):
    """Makes calls wait for their rate limit where an event loop runs.

    For chat models, this handler is not inline: LangChain awaits such handlers last, and none of them runs on
    when one is cancelled. For LLMs it is inline, since LangChain awaits only inline ones there.

    Blocking code may also run on an event loop, and so block it. LangChain then runs the handler's coroutine
    in another thread, on a loop of its own, and the code waits for it. There the call waits as a thread does,
    which lends no slots to tasks of the blocked loop, since these could not run.

    Args:
        llms: True for the handler of LLMs, False for that of chat models.
    """

    raise_error = True

    def __init__(self, *, llms: bool) -> None:
        self.run_inline = llms
        self._llms = llms
        self._asked = threading.local()

    async def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        await self._begin(run_id, messages, kwargs)

    async def on_llm_start(
        self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        await self._begin(run_id, prompts, kwargs)

    async def _begin(self, run_id: UUID, prompts: Sequence[Any], told: dict[str, Any]) -> None:
        gate = cast("calls.Gate", calls.here().gate)
        if self._asked.__dict__.get("loop") is asyncio.get_running_loop():
            gate.passed[run_id] = await gate.enter(TASK, _characters(prompts, told))
        else:
            # LangChain would only log the error, and make the call anyway.
            with suppress(Closed):
                gate.passed[run_id] = run_blocking(gate.enter(THREAD, _characters(prompts, told)))
        calls.begin_call()

    def _has_nothing_to_do(self) -> bool:
        """Return whether no event loop runs, or no gate is set.

        LangChain calls this just before the call, in the same thread.
        """
        self._asked.loop = _running_loop()
        return self._asked.loop is None or calls.here().gate is None

    @property
    def ignore_chat_model(self) -> bool:
        return self._llms or self._has_nothing_to_do()

    @property
    def ignore_llm(self) -> bool:
        return not self._llms or self._has_nothing_to_do()


_MOST_OPEN = 100_000
"""The most calls whose start is remembered."""


class _HandlerHere:
    """A handler in the shape of a context variable, from which LangChain takes handlers.

    LangChain only reads the variable, whenever it configures a call, so the options of `calls.here()` decide.
    A nested call gets each handler once, since there is only one of each kind.
    """

    def __init__(self, handler: BaseCallbackHandler, holds: Callable[[calls.Here], bool]) -> None:
        self._handler = handler
        self._holds = holds

    def get(self) -> BaseCallbackHandler | None:
        return self._handler if self._holds(calls.here()) else None


def _is_gated(here: calls.Here) -> bool:
    return here.gate is not None


_SEES = _Sees()
for _handler_here in (
    _HandlerHere(_SEES, lambda here: here.langchain_observed),
    _HandlerHere(_Waits(llms=False), _is_gated),
    _HandlerHere(_Waits(llms=True), _is_gated),
):
    register_configure_hook(cast("Any", _handler_here), inheritable=True)


def _admitted(run_id: UUID) -> calls.AdmittedCall | None:
    """Return the admitted call of a run that ends, if it passed a gate."""
    gate = calls.here().gate
    return None if gate is None else gate.passed.pop(run_id, None)


def answer_of_message(message: AIMessage, *, fresh: bool, asked: Mapping[str, Any]) -> Answer:
    """Return the `Answer` for a message.

    LangChain's cache marks its hits with a cost of 0. It marks the cached message itself, which an equal call
    to the provider may still be about to report; so the mark counts only for answers that are not fresh.

    Args:
        message: The message.
        fresh: True if it has output that only a provider gives.
        asked: LangChain's metadata of the model.
    """
    usage: dict[str, Any] = {**(message.usage_metadata or {})}
    read, written = cached_in(usage.get("input_token_details"))
    outputs: dict[str, Any] = usage.get("output_token_details") or {}
    said = message.response_metadata
    names = [str(said.get(key) or "") for key in ("model_name", "model")] + [
        str(asked.get("ls_model_name") or "")
    ]
    provider = str(asked.get("ls_provider") or said.get("model_provider") or "")
    return Answer(
        model=next(filter(None, names), ""),
        input_tokens=usage.get("input_tokens", 0),
        output_tokens=usage.get("output_tokens", 0),
        usd=price_of(provider, tuple(names), usage) if usage else None,
        cached=usage.get("total_cost") == 0 and not fresh,
        known=bool(usage),
        cache_read_tokens=read,
        cache_creation_tokens=written,
        reasoning_tokens=outputs.get("reasoning", 0),
    )


def _characters(prompts: Sequence[Any], told: dict[str, Any]) -> int:
    """Return the length of prompts or messages, and of the tools that are sent along."""
    options: dict[str, Any] = told.get("invocation_params") or {}
    return len(str(options.get("tools") or "")) + sum(map(_length, prompts))


def _length(prompt: str | list[BaseMessage]) -> int:
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(message.text) + len(str(getattr(message, "tool_calls", None) or "")) for message in prompt)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for LangChain's log of errors in our handlers: the caller gets these errors anyway."""
    return not (
        isinstance(record.args, tuple) and record.args and record.args[0] in (_Sees.__name__, _Waits.__name__)
    )


logging.getLogger("langchain_core.callbacks.manager").addFilter(_is_news)
