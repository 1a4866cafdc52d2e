"""Seeing calls of models where they are made: DSPy's by its language models, LangChain's by a callback handler."""

import sys
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.tracers.context import register_configure_hook

from mahsm._calls import begin_call, check_refused, clients_retry, end_call
from mahsm._dspy_lm import watched_settings
from mahsm._meters import Answer


class _Handler(BaseCallbackHandler):
    """Counts what LangChain's chat models say that they took."""

    run_inline = True
    raise_error = True  # of a refused call

    def on_chat_model_start(self, serialized: dict[str, Any], messages: list[list[Any]], **kwargs: Any) -> None:
        check_refused()
        begin_call()

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], **kwargs: Any) -> None:
        check_refused()
        begin_call()

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        first = next((generations[0] for generations in response.generations if generations), None)
        message = first.message if isinstance(first, ChatGeneration) else None
        fresh = bool(response.llm_output)
        end_call(_answer(message, fresh=fresh) if isinstance(message, AIMessage) else Answer(known=False))

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        end_call(None)


def _answer(message: AIMessage, *, fresh: bool) -> Answer:
    """What an answer took; it is `fresh` if it brings what only a provider says.

    LangChain's cache marks its hits by a cost of 0. It does so on the very object that an equal call may be about to report.
    """
    usage: dict[str, Any] = {**(message.usage_metadata or {})}
    return Answer(
        model=str(message.response_metadata.get("model_name", "")),
        input_tokens=usage.get("input_tokens", 0),
        output_tokens=usage.get("output_tokens", 0),
        cached=usage.get("total_cost") == 0 and not fresh,
        known=bool(usage),
    )


_HANDLER = _Handler()  # only one: LangChain adds a handler that it has already only once
_handler: ContextVar[_Handler | None] = ContextVar("mahsm_langchain_handler", default=None)
register_configure_hook(_handler, inheritable=True)


@contextmanager
def watched(*, retries: bool = True) -> Generator[None, None, None]:
    """See the calls that are made in the block.

    Args:
        retries: Whether clients may try again by themselves.
    """
    with ExitStack() as stack:
        stack.callback(_handler.reset, _handler.set(_HANDLER))
        if not retries:
            stack.callback(clients_retry.reset, clients_retry.set(False))
        if "dspy" in sys.modules:  # whoever uses it has imported it
            stack.enter_context(watched_settings())
        yield
