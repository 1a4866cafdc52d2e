"""What a model in a test is asked, and what it answers."""

import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import cleandoc
from typing import Any, TypeAlias, cast


@dataclass
class Call:
    """One request that a model got.

    What stands in a DSPy prompt can be asked for by its parts, whichever adapter wrote it of those that mark fields with
    `[[ ## name ## ]]` (`ChatAdapter`, `JSONAdapter`).

    Attributes:
        model: The model asked for.
        messages: The messages, as the client sent them.
        body: The whole request.
        began: `time.monotonic()` when it came.
        ended: `time.monotonic()` when it was answered, or None while it is not.
        status: HTTP status of the answer, or None while there is none.
        repeats: How many requests with the same messages came before.
    """

    model: str
    messages: list[dict[str, Any]]
    body: dict[str, Any]
    began: float
    ended: float | None = None
    status: int | None = None
    repeats: int = 0

    @property
    def text(self) -> str:
        """The content of the last message."""
        return str(self.messages[-1]["content"]) if self.messages else ""

    def field(self, name: str) -> str:
        """The value that a DSPy prompt gives for an input field.

        Raises:
            KeyError: if the last message has no such field.
        """
        return self.inputs[name]

    @property
    def tools(self) -> list[str]:
        """Names of the tools that the model may call."""
        given = cast("list[dict[str, Any]]", self.body.get("tools") or [])
        return [str(tool.get("function", tool).get("name", "")) for tool in given]

    @property
    def inputs(self) -> dict[str, str]:
        """The input fields of a DSPy prompt, as texts."""
        return _fields_of(self.text)

    @property
    def outputs(self) -> list[str]:
        """Names of the output fields that a DSPy prompt asks for."""
        listed = self._system.partition("Your output fields are:")[2].partition("All interactions will be")[0]
        return re.findall(r"^\d+\. `(\w+)`", listed, re.MULTILINE)

    @property
    def instructions(self) -> str:
        """The instructions of a DSPy prompt: the docstring of its signature, or what an optimiser made of it."""
        return cleandoc(self._system.partition("your objective is:")[2].lstrip(" ").removeprefix("\n"))

    @property
    def demos(self) -> list[dict[str, str]]:
        """The worked examples of a DSPy prompt: inputs and outputs, as texts."""
        asked, answered = self.messages[:-1], self.messages[1:]
        pairs = [pair for pair in zip(asked, answered, strict=True) if [part["role"] for part in pair] == ["user", "assistant"]]
        return [_fields_of(str(user["content"])) | _fields_of(str(model["content"])) for user, model in pairs]

    @property
    def _system(self) -> str:
        return "\n".join(str(message["content"]) for message in self.messages if message["role"] in ("system", "developer"))


@dataclass(frozen=True)
class ToolCall:
    """An answer of a model that calls a tool.

    Attributes:
        name: The tool's name.
        args: Its arguments.
        id: What its result is known by; by default `call_1`, `call_2`, and so on, for each model.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    id: str | None = None


@dataclass(frozen=True)
class Reply:
    """An answer of a model.

    Attributes:
        content: The model's text; or a mapping, which becomes the fields of a DSPy answer.
        tool_calls: Tools that it calls, at once if there are several.
        status: HTTP status; from 400 on, `content` is the error's message.
        retry_after: Seconds of a Retry-After header.
        latency: Seconds that this answer takes, in place of the model's.
        usage: Tokens in and out; by default a quarter of the characters, at least 1.
        raw: Bytes that a server sends as they are in place of a well-formed answer.
    """

    content: str | Mapping[str, object] = ""
    status: int = 200
    retry_after: float | None = None
    latency: float | None = None
    usage: tuple[int, int] | None = None
    raw: bytes | None = None
    tool_calls: Sequence[ToolCall] = ()

    @classmethod
    def rate_limited(cls, retry_after: float | None = None) -> "Reply":
        """A 429."""
        return cls("Rate limit reached", status=429, retry_after=retry_after)

    @classmethod
    def failed(cls, status: int = 500) -> "Reply":
        """An error of the server or of the request."""
        return cls(f"Status {status}", status=status)

    @classmethod
    def malformed(cls) -> "Reply":
        """A 200 whose body is no JSON."""
        return cls(raw=b'{"choices": [{"mess')

    def text(self, call: Call) -> str:
        """The model's text, in the form that the prompt asks for."""
        if isinstance(self.content, str):
            return self.content
        return _as_json(self.content) if "Respond with a JSON object" in call.text else _as_fields(self.content)


Answer: TypeAlias = str | Mapping[str, object] | ToolCall | Reply
Answers: TypeAlias = Answer | Iterable[Answer] | Callable[[Call], Answer]


class Model:
    """Answers as it was told to, and remembers what it was asked. Safe in threads.

    Args:
        answers: What it answers.
        owner: Who is told to answer so, for the error.

    Attributes:
        calls: The requests so far, in the order in which they came.
        answering: Requests that are being answered now.
        most_at_once: The most that were being answered at the same time.

    Raises:
        ValueError: if there are no answers.
    """

    def __init__(self, answers: Answers, owner: str) -> None:
        self._lock = threading.Lock()
        self._answer = _chooser(answers, owner)
        self._times: Counter[str] = Counter()
        self._tool_calls = itertools.count(1)
        self.calls: list[Call] = []
        self.answering = 0
        self.most_at_once = 0

    def begin(self, model: str, messages: list[dict[str, Any]], body: dict[str, Any]) -> tuple[Call, Reply]:
        """A request has come: what is answered."""
        call, prompt = Call(model, messages, body, time.monotonic()), json.dumps(messages, default=str)
        with self._lock:
            self.calls.append(call)
            call.repeats = self._times[prompt]
            self._times[prompt] += 1
            self.answering += 1
            self.most_at_once = max(self.most_at_once, self.answering)
        try:
            answer = self._answer(call)
        except Exception as error:  # noqa: BLE001  a test's own function: its client shall hear of it
            answer = Reply(f"answers raised {error!r}", status=500)
        return call, self._reply(answer)

    def _reply(self, answer: Answer) -> Reply:
        if isinstance(answer, ToolCall):
            answer = Reply(tool_calls=[answer])
        if not isinstance(answer, Reply):
            return Reply(answer)
        with self._lock:
            named = [one if one.id else replace(one, id=f"call_{next(self._tool_calls)}") for one in answer.tool_calls]
        return replace(answer, tool_calls=named)

    def end(self, call: Call, status: int) -> None:
        """The request has been answered."""
        with self._lock:
            self.answering -= 1
            call.status = status
            call.ended = time.monotonic()


def tokens_of(call: Call, reply: Reply) -> tuple[int, int]:
    """Tokens in and out of a call."""
    written = reply.text(call) + "".join(one.name + json.dumps(dict(one.args)) for one in reply.tool_calls)
    return reply.usage or (_tokens(json.dumps(call.messages)), _tokens(written))


def pieces_of(text: str) -> list[str]:
    """A text in the pieces in which a model streams it: words, each with the space before it."""
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


def _fields_of(text: str) -> dict[str, str]:
    """The fields of a DSPy message."""
    if text.startswith("{"):  # an answer as JSON
        try:
            values = cast("dict[str, object]", json.loads(text))
        except ValueError:
            return {}
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    prompt = re.split(r"\n\nRespond with (?:the corresponding|a JSON) ", text, maxsplit=1)[0]
    _, *parts = re.split(r"(?:^|\n\n)\[\[ ## (\w+) ## \]\]\n?", prompt)
    return {name: value.strip("\n") for name, value in zip(parts[::2], parts[1::2], strict=True) if name != "completed"}


def _as_fields(values: Mapping[str, object]) -> str:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return "\n\n".join([*(f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()), "[[ ## completed ## ]]"])


def _as_json(values: Mapping[str, object]) -> str:
    return json.dumps(dict(values))


def _tokens(text: str) -> int:
    return max(1, len(text) // 4)
