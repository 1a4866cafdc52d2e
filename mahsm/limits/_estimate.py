"""How many tokens a call will take: a guess that learns."""

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, cast

from mahsm._common import MOST, is_figure, shown
from mahsm.errors import LimitError

CHARACTERS_PER_TOKEN = 4
"""Of English text, OpenAI, "What are tokens and how to count them?"."""

FIRST_OUTPUT = 256.0
"""Tokens of an answer before there was one."""

_CAUTION = 2.0
"""By what an estimate is multiplied before a call has been settled: a reserve that is too large is given
back, one that is too small has been spent."""

_RECENT = 64


class Estimator:
    """Estimates of one bucket, corrected by how far the recent ones were off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)  # estimated, used
        self._outputs: deque[int] = deque(maxlen=_RECENT)

    def of_prompt(self, characters: int) -> float:
        """Tokens of a call with such a prompt: its length, and the recent mean of the answers."""
        with self._lock:
            outputs = list(self._outputs)
        return characters / CHARACTERS_PER_TOKEN + (sum(outputs) / len(outputs) if outputs else FIRST_OUTPUT)

    @property
    def mean(self) -> float:
        """Tokens of a recent call, on average."""
        with self._lock:
            used = [pair[1] for pair in self._recent]
        return sum(used) / len(used) if used else FIRST_OUTPUT

    def corrected(self, estimate: float) -> float:
        """What to reserve for an estimate: it, times the recent ratio of tokens used to tokens estimated."""
        with self._lock:
            estimated = sum(pair[0] for pair in self._recent)
            used = sum(pair[1] for pair in self._recent)
        return estimate * (min(used / estimated, MOST) if estimated else _CAUTION)

    def learn(self, estimate: float, used: float, output: int) -> None:
        """A call that was estimated so took this."""
        with self._lock:
            self._recent.append((estimate, used))
            self._outputs.append(output)


def figure(where: str, value: object, unit: str = "tokens") -> float:
    """Return a figure that a user gives, as it is.

    Raises:
        LimitError: if it is none, since a NaN in a bucket would stop everybody.
    """
    if not is_figure(value):
        raise LimitError(f"{where} {shown(value)}; expected a number of {unit} >= 0 and <= {MOST:g}.")
    return value


def characters(value: object) -> int:
    """The length of the text in a value: a text's own, and that of the parts of a mapping, a list or a
    message.
    """
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(characters(part) for part in cast("Mapping[Any, Any]", value).values())
    if isinstance(value, list | tuple):
        return sum(characters(part) for part in cast("list[Any]", value))
    content = getattr(value, "content", None)  # of a LangChain message
    return 0 if content is None else characters(content)
