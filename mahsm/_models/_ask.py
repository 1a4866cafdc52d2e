"""`Ask`: what a direct call asks a model."""

from typing import Any, NamedTuple


class Ask(NamedTuple):
    """What a direct call asks a model.

    Attributes:
        prompt: A string, parts of a message, or messages.
        system: Instructions.
        output: The type of a structured output, if one is asked for.
        options: Options of the call.
    """

    prompt: Any
    system: str | None
    output: Any
    options: dict[str, Any]
