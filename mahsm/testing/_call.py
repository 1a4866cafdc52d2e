"""`Call`: a request to a model, whatever API it came by."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import cleandoc
from typing import Any, cast


@dataclass
class Call:
    """A request to a model.

    The parts of a DSPy prompt are available as properties, for adapters that mark fields with
    `[[ ## name ## ]]` (`ChatAdapter`, `JSONAdapter`).

    Attributes:
        model: The requested model.
        messages: The messages, each with a role and its content. Those of the chat API are as the client
            sent them. Items of a request to `/v1/responses` or `/v1/messages` become such messages: its
            instructions a system message, results of tools messages of the role "tool".
        body: The whole request, as the client sent it.
        began: `time.monotonic()` when it arrived.
        ended: `time.monotonic()` when it was answered, or None before.
        status: HTTP status of the answer, or None before.
        repeats: The number of earlier requests with the same messages.
        key: The API key that the client sent, or "" if it sent none; not in the repr.
        batch: The id of the batch job that the request is part of, or None.
    """

    model: str
    messages: list[dict[str, Any]]
    body: dict[str, Any]
    began: float
    ended: float | None = None
    status: int | None = None
    repeats: int = 0
    key: str = field(default="", repr=False)
    batch: str | None = None

    @property
    def text(self) -> str:
        """The content of the last message: a question, or the result of a tool."""
        return _content(self.messages[-1]) if self.messages else ""

    @property
    def role(self) -> str:
        """The role of the last message: "user", or "tool" for the result of a tool."""
        return str(self.messages[-1]["role"]) if self.messages else ""

    @property
    def tools(self) -> list[str]:
        """Names of the tools that the model may call."""
        return [str(tool.get("function", tool)["name"]) for tool in self.body.get("tools") or ()]

    @property
    def wants_json(self) -> bool:
        """Return whether the client asks for JSON: as a format of the answer, or in a DSPy prompt."""
        if "response_format" in self.body or "Respond with a JSON object" in self.text:
            return True
        places = [self.body, *(self.body.get(name) for name in ("text", "output_config"))]
        formats = [
            one.get("format") or one.get("output_format")
            for one in cast("list[dict[str, Any]]", [place for place in places if isinstance(place, dict)])
        ]
        return any(one and one["type"] != "text" for one in formats)

    def field(self, name: str) -> str:
        """Return the value of an input field of a DSPy prompt.

        Raises:
            KeyError: if the last message has no such field.
        """
        return self.inputs[name]

    @property
    def inputs(self) -> dict[str, str]:
        """The input fields of a DSPy prompt, as strings."""
        return _fields_of(self.text)

    @property
    def outputs(self) -> list[str]:
        """Names of the output fields that a DSPy prompt asks for."""
        listed = self._system.partition("Your output fields are:")[2].partition("All interactions will be")[0]
        return re.findall(r"^\d+\. `(\w+)`", listed, re.MULTILINE)

    @property
    def instructions(self) -> str:
        """The instructions of a DSPy prompt: the docstring of its signature, or an optimiser's version of
        it.
        """
        return cleandoc(self._system.partition("your objective is:")[2].lstrip(" ").removeprefix("\n"))

    @property
    def demos(self) -> list[dict[str, str]]:
        """The demos of a DSPy prompt: their inputs and outputs, as strings."""
        asked, answered = self.messages[:-1], self.messages[1:]
        pairs = [
            pair
            for pair in zip(asked, answered, strict=True)
            if [part["role"] for part in pair] == ["user", "assistant"]
        ]
        return [_fields_of(_content(user)) | _fields_of(_content(model)) for user, model in pairs]

    @property
    def _system(self) -> str:
        return "\n".join(
            _content(message) for message in self.messages if message["role"] in ("system", "developer")
        )


def _content(message: Mapping[str, Any]) -> str:
    """Return the content of a message as a string, also if it is a list of parts."""
    content: Any = message.get("content") or ""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in cast("list[dict[str, Any]]", content))
    return str(content)


def _fields_of(text: str) -> dict[str, str]:
    """Return the fields of a DSPy message."""
    # `JSONAdapter` writes answers as JSON.
    if text.startswith("{"):
        try:
            values = cast("dict[str, object]", json.loads(text))
        except ValueError:
            return {}
        return {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()
        }
    prompt = re.split(r"\n\nRespond with (?:the corresponding|a JSON) ", text, maxsplit=1)[0]
    _, *parts = re.split(r"(?:^|\n\n)\[\[ ## (\w+) ## \]\]\n?", prompt)
    return {
        name: value.strip("\n")
        for name, value in zip(parts[::2], parts[1::2], strict=True)
        if name != "completed"
    }
