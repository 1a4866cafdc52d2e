"""Prompts with roles and images, as DSPy's adapters send them."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import dspy

from mahsm._common import shown
from mahsm._models._ask import Ask
from mahsm._models._response import Response
from mahsm._waiting import Way
from mahsm.errors import ModelError

Message = dict[str, Any]

_ROLES = ("system", "developer", "user", "assistant", "tool")
_OF_LANGCHAIN = {"human": "user", "ai": "assistant"}


def turns(prompt: Any) -> list[Message]:
    """Return the messages of a prompt, with their contents as given.

    Raises:
        ModelError: if a role is unknown, or the prompt is empty.
    """
    if isinstance(prompt, Mapping) and _is_message(prompt):
        return [_message(prompt)]
    if prompt is None:
        raise ModelError("models: the prompt is None; expected a string, parts of a message, or messages.")
    if not isinstance(prompt, str) and isinstance(prompt, Sequence):
        parts = list(cast("Sequence[Any]", prompt))
        if not parts:
            raise ModelError(
                "models: the prompt is empty; expected a string, parts of a message, or messages."
            )
        if all(map(_is_message, parts)):
            return [_message(one) for one in parts]
    return [{"role": "user", "content": prompt}]


def messages(prompt: Any, system: str | None) -> list[Message]:
    """Return the messages of a prompt as DSPy's clients take them.

    Raises:
        ModelError: if a part cannot be sent.
    """
    found = [{**one, "content": _content(one["content"])} for one in turns(prompt)]
    return found if system is None else [{"role": "system", "content": system}, *found]


def _is_message(one: Any) -> bool:
    if isinstance(one, Mapping):
        return "role" in one
    if isinstance(one, tuple):
        return len(cast("tuple[Any, ...]", one)) == 2 and cast("tuple[Any, ...]", one)[0] in _ROLES
    return hasattr(one, "type") and hasattr(one, "content")


def _message(one: Any) -> Message:
    given: Message
    if isinstance(one, Mapping):
        given = dict(cast("Mapping[str, Any]", one))
    elif isinstance(one, tuple):
        given = dict(zip(("role", "content"), cast("tuple[Any, ...]", one), strict=True))
    else:
        given = {"role": _OF_LANGCHAIN.get(one.type, one.type), "content": one.content}
    if given["role"] not in _ROLES:
        raise ModelError(
            f"models: a message has the role {given['role']!r}; expected one of "
            f"{', '.join(map(repr, _ROLES))}."
        )
    return {**given, "content": given.get("content")}


def parts_of(content: Any) -> list[Any]:
    """Return the parts of a message's content."""
    return list(cast("Sequence[Any]", content)) if _is_list(content) else [content]


def _content(content: Any) -> Any:
    if content is None or isinstance(content, str):
        return content
    return [formatted for part in parts_of(content) for formatted in _part(part)]


def _is_list(content: Any) -> bool:
    return isinstance(content, Sequence) and not isinstance(content, str)


def _part(part: Any) -> list[Any]:
    if isinstance(part, str):
        return [{"type": "text", "text": part}]
    if isinstance(part, Mapping):
        return [dict(cast("Mapping[str, Any]", part))]
    if isinstance(part, dspy.Type):  # Image, Audio, File and types of your own
        formatted = part.format()
        return formatted if isinstance(formatted, list) else [{"type": "text", "text": formatted}]
    if isinstance(part, Response):
        return [{"type": "text", "text": str(part)}]
    raise ModelError(
        f"models: {shown(part)} cannot be part of a prompt; expected strings, dspy.Image and the like, or "
        "messages such as {'role': 'user', 'content': '...'}. Format other values with an f-string."
    )


class _Plain(dspy.Adapter):
    """Sends messages as they are, and returns the text as it is."""

    def format(self, signature: Any, demos: Any, inputs: dict[str, Any]) -> list[Message]:
        return inputs["messages"]

    def parse(self, signature: Any, completion: str) -> dict[str, Any]:
        return {"text": completion}

    def _call_postprocess(self, *given: Any) -> list[dict[str, Any]]:  # type: ignore[override]
        # DSPy's own refuses empty answers, which a call without roles returns.
        return []


_ADAPTER: Any = cast("Any", _Plain)(use_native_function_calling=True)
_SIGNATURE: Any = cast("Any", dspy.Signature)("messages -> text")


async def answer(way: Way, lm: Any, ask: Ask) -> None:
    """Call a model with messages."""
    call: Any = (lm, ask.options, _SIGNATURE, [], {"messages": messages(ask.prompt, ask.system)})
    await way.call(lambda: _ADAPTER(*call), lambda: _ADAPTER.acall(*call))
