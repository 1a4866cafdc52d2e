"""A chat model whose answers are a function of what it is asked, and what two runs of a machine are compared by."""

from collections.abc import Callable, Iterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import Field


class Chat(BaseChatModel):
    """Answers by `answer(messages)`, word by word if it is streamed, and notes the last message of each call."""

    answer: Callable[[list[BaseMessage]], AIMessage | str]
    asked: list[str] = Field(default_factory=list)

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.asked.append(messages[-1].text)
        given = self.answer(messages)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(given) if isinstance(given, str) else given)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        message = self._generate(messages).generations[0].message
        assert isinstance(message, AIMessage)
        for word in message.text.split():
            yield _told(AIMessageChunk(word), run_manager)
        calls = [{"name": c["name"], "args": c["args"], "id": c["id"], "type": "tool_call"} for c in message.tool_calls]
        yield _told(AIMessageChunk("", tool_calls=calls, chunk_position="last"), run_manager)

    @property
    def _llm_type(self) -> str:
        return "chat"


def _told(message: AIMessageChunk, run_manager: CallbackManagerForLLMRun | None) -> ChatGenerationChunk:
    chunk = ChatGenerationChunk(message=message)
    if run_manager is not None:
        run_manager.on_llm_new_token(message.text, chunk=chunk)
    return chunk


def calls(*tools: tuple[str, dict[str, Any]]) -> AIMessage:
    """An answer that calls tools, by names and arguments."""
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"{name}-{i}"} for i, (name, args) in enumerate(tools)])


def plain(value: Any) -> Any:
    """A state without what differs from run to run: the ids of messages."""
    if isinstance(value, BaseMessage):
        called = [(call["name"], call["args"]) for call in getattr(value, "tool_calls", [])]
        return (value.type, value.name, value.text, called)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list) else value
