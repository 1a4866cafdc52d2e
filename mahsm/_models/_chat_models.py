"""Direct calls of LangChain's chat models."""

from collections.abc import Callable
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk

from mahsm._model_calls import answer_of_message
from mahsm._models import _prompts
from mahsm._models._ask import Ask
from mahsm._models._response import Heard, Response
from mahsm._waiting import Way


async def respond(way: Way, chat: Any, ask: Ask, on_part: Callable[[str], None] | None) -> Response:
    """Call a chat model; `_calls.respond` has the arguments."""
    given, options = _prompts.messages(ask.prompt, ask.system), ask.options
    asked = {"ls_model_name": getattr(chat, "model_name", None) or getattr(chat, "model", None)}
    if ask.output is not None:
        structured = chat.with_structured_output(ask.output, include_raw=True)
        found = await way.call(
            lambda: structured.invoke(given, **options), lambda: structured.ainvoke(given, **options)
        )
        if found["parsing_error"] is not None:
            raise found["parsing_error"]
        return _response(found["raw"], asked, found["parsed"])
    if on_part is not None:
        whole: Any = None
        async for chunk in chat.astream(given, **options):
            on_part(cast("AIMessageChunk", chunk).text)
            whole = chunk if whole is None else whole + chunk
        return _response(whole, asked)
    message = await way.call(lambda: chat.invoke(given, **options), lambda: chat.ainvoke(given, **options))
    return _response(message, asked)


def _response(message: AIMessage, asked: dict[str, Any], output: Any = None) -> Response:
    heard = Heard()
    entry = {"response": message, "outputs": [message.text]}
    heard.add(entry, answer_of_message(message, fresh=False, asked=asked))
    return heard.response(output)
