"""Answers of a model in a test, and the model that gives them."""

import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias, cast

from mahsm._common import shown
from mahsm.testing._call import Call


@dataclass(frozen=True)
class ToolCall:
    """A tool call that a model requests.

    Attributes:
        name: The tool's name.
        args: Its arguments, JSON-serializable.
        id: Its id, unique in the conversation; by default `call_0`, `call_1` and so on.
    """

    name: str
    args: Mapping[str, object] = field(default_factory=dict[str, object])
    id: str | None = None


class StatusError(Exception):
    """The error that a `FakeChatModel` raises for a `Reply` with an error status.

    Attributes:
        status_code: HTTP status.
        retry_after: Seconds of a Retry-After header, or None.
    """

    def __init__(self, message: str, status_code: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.retry_after = retry_after


@dataclass(frozen=True)
class Reply:
    """An answer of a model.

    Attributes:
        content: The model's answer as a string; or a mapping, which becomes the fields of a DSPy answer.
        tool_calls: Tool calls that the model requests, besides.
        status: HTTP status; from 400 on, `content` is the error's message.
        retry_after: Seconds of a Retry-After header.
        latency: Seconds until this answer, in place of the model's latency.
        usage: Input and output tokens; by default a quarter of the characters, at least 1.
        raw: Bytes that a server sends unchanged, in place of a well-formed answer.
    """

    content: str | Mapping[str, object] = ""
    tool_calls: Sequence[ToolCall] = field(default=(), kw_only=True)
    status: int = 200
    retry_after: float | None = None
    latency: float | None = None
    usage: tuple[int, int] | None = None
    raw: bytes | None = None

    @classmethod
    def rate_limited(cls, retry_after: float | None = None) -> "Reply":
        """Return a 429."""
        return cls("Rate limit reached", status=429, retry_after=retry_after)

    @classmethod
    def failed(cls, status: int = 500) -> "Reply":
        """Return an error of the server or of the request."""
        return cls(f"Status {status}", status=status)

    @classmethod
    def malformed(cls) -> "Reply":
        """Return a 200 whose body is not valid JSON."""
        return cls(raw=b'{"choices": [{"mess')

    def text(self, call: Call) -> str:
        """Return the content in the format that the prompt asks for."""
        if isinstance(self.content, str):
            return self.content
        return _as_json(self.content) if call.wants_json else _as_fields(self.content)

    def asked_tools(self, call: Call) -> list[tuple[str, ToolCall]]:
        """Return the tool calls with their ids; default ids count the tool calls of the conversation."""
        before = sum(len(message.get("tool_calls") or ()) for message in call.messages)
        return [(one.id or f"call_{before + index}", one) for index, one in enumerate(self.tool_calls)]


Answer: TypeAlias = str | Mapping[str, object] | ToolCall | Sequence[ToolCall] | Reply
Answers: TypeAlias = Answer | Iterable[Answer] | Callable[[Call], Answer]


class Model:
    """A model with scripted answers, which records its requests. Thread-safe.

    Args:
        answers: Its answers.
        owner: The class to name in the error.

    Attributes:
        calls: The requests so far, in order of arrival.
        answering: The number of requests in progress.
        most_at_once: The highest number of requests that were in progress at the same time.

    Raises:
        ValueError: if `answers` is empty.
    """

    def __init__(self, answers: Answers, owner: str) -> None:
        self._lock = threading.Lock()
        self._answer = _chooser(answers, owner)
        self._times: Counter[str] = Counter()
        self.calls: list[Call] = []
        self.answering = 0
        self.most_at_once = 0

    def begin(
        self, model: str, messages: list[dict[str, Any]], body: dict[str, Any], key: str = ""
    ) -> tuple[Call, Reply]:
        """Record a request, and return it with its answer.

        Raises:
            Exception: any error that the function of the answers raises.
        """
        call = self.arrive(model, messages, body, key)
        return call, self.answer(call)

    def arrive(
        self,
        model: str,
        messages: list[dict[str, Any]],
        body: dict[str, Any],
        key: str = "",
        batch: str | None = None,
    ) -> Call:
        """Record a request, and return it."""
        call = Call(model, messages, body, time.monotonic(), key=key, batch=batch)
        prompt = json.dumps(messages, default=str)
        with self._lock:
            self.calls.append(call)
            call.repeats = self._times[prompt]
            self._times[prompt] += 1
            self.answering += 1
            self.most_at_once = max(self.most_at_once, self.answering)
        return call

    def answer(self, call: Call) -> Reply:
        """Return the answer to a request that has arrived.

        Raises:
            Exception: any error that the function of the answers raises.
        """
        try:
            return _reply(self._answer(call))
        except BaseException:
            self.end(call, 500)
            raise

    def end(self, call: Call, status: int) -> None:
        """Record that the request has been answered."""
        with self._lock:
            self.answering -= 1
            call.status = status
            call.ended = time.monotonic()

    # Copies of a model client share one provider.
    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def tokens_of(call: Call, reply: Reply) -> tuple[int, int]:
    """Return the input and output tokens of a call."""
    tools = "".join(f"{one.name}{_as_json(one.args)}" for one in reply.tool_calls)
    return reply.usage or (_tokens(json.dumps(call.messages)), _tokens(reply.text(call) + tools))


def pieces_of(text: str) -> list[str]:
    """Split a string into the pieces in which a model streams it: words, each with the space before it."""
    return re.findall(r"\s*\S+|\s+$", text)


def _chooser(answers: Answers, owner: str) -> Callable[[Call], Answer]:
    if callable(answers):
        return answers
    if isinstance(answers, str | Mapping | Reply | ToolCall):
        return lambda _: cast("Answer", answers)
    following = list(answers)
    if not following:
        raise ValueError(f"{owner}: answers is empty; expected at least one answer.")
    position = itertools.count()
    return lambda _: following[min(next(position), len(following) - 1)]


def _reply(answer: Answer) -> Reply:
    if isinstance(answer, Reply):
        return answer
    if isinstance(answer, str | Mapping):
        return Reply(answer)
    calls: Sequence[object] = (answer,) if isinstance(answer, ToolCall) else answer
    if not isinstance(calls, Sequence) or not calls or not all(isinstance(one, ToolCall) for one in calls):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"{shown(answer)} is not a valid answer; expected a string, a mapping, a ToolCall, a list of "
            "them, or a Reply"
        )
    return Reply(tool_calls=cast("Sequence[ToolCall]", calls))


def _as_fields(values: Mapping[str, object]) -> str:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return "\n\n".join(
        [*(f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()), "[[ ## completed ## ]]"]
    )


def _as_json(values: Mapping[str, object]) -> str:
    return json.dumps(dict(values))


def _tokens(text: str) -> int:
    return max(1, len(text) // 4)
