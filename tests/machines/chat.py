"""A chat model that answers by LangChain's messages, and what two runs of a machine are compared by."""

from collections.abc import Callable
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage, convert_to_messages

from mahsm.testing import FakeChatModel, Reply, ToolCall

Answer: TypeAlias = Callable[[list[BaseMessage]], str | Reply]


class Chat(FakeChatModel):
    """Answers by a function of the messages."""

    def __init__(self, answer: Answer, **options: Any) -> None:
        super().__init__(lambda call: answer(convert_to_messages(call.messages)), **options)

    @property
    def asked(self) -> list[str]:
        """The last message of each call."""
        return [call.text for call in self.calls]


def tool_calls(*tools: tuple[str, dict[str, Any]]) -> Reply:
    """An answer that calls tools, by names and arguments."""
    return Reply(
        tool_calls=[ToolCall(name, args, f"{name}-{number}") for number, (name, args) in enumerate(tools)]
    )


def plain(value: Any) -> Any:
    """A state without what differs from run to run: the ids of messages."""
    if isinstance(value, BaseMessage):
        called = [(call["name"], call["args"]) for call in getattr(value, "tool_calls", [])]
        return (value.type, value.name, value.text, called)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value
