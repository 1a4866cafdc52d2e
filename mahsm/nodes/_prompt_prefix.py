"""`PromptPrefix`: a text that comes first in the prompts of a DSPy node."""

from collections.abc import Callable
from typing import Any, TypeAlias

from mahsm._common import State, shown
from mahsm.errors import NodeError

PromptPrefix: TypeAlias = str | Callable[[Any], str]
"""The text, or a function of the state that returns it."""


def check_prompt_prefix(node: str, given: object) -> None:
    """Refuse what is neither a text nor a function.

    Raises:
        NodeError: if it is not.
    """
    if given is not None and not callable(given) and not (isinstance(given, str) and given):
        raise NodeError(
            f"dspy_node {node!r}: prompt_prefix={shown(given)}; expected a text, or a function from the "
            "state to a text, such as lambda state: state['handbook']."
        )


def prompt_prefix_of(node: str, given: PromptPrefix, state: State) -> str:
    """Return the text for a state; it may be empty.

    Raises:
        NodeError: if the function returns something else.
    """
    text: Any = given if isinstance(given, str) else given(state)
    if not isinstance(text, str):
        raise NodeError(
            f"dspy_node {node!r}: prompt_prefix returned {shown(text)}; expected a string, which is empty if "
            "there is nothing to say first."
        )
    return text
