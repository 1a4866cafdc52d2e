"""Estimates of the tokens that a call will take, which learn from the calls before."""

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, cast

from mahsm._common import MOST, is_figure, shown
from mahsm.errors import LimitError

CHARACTERS_PER_TOKEN = 4
"""For English prose; OpenAI, "What are tokens and how to count them?"."""

FIRST_OUTPUT = 256.0
"""Estimated tokens of an answer before the first one."""

_CAUTION = 2.0
"""Factor of an estimate before the first call has been settled: a reserve that is too large is given back,
one that is too small has been spent."""

_RECENT = 64


class Estimator:
    """Estimates of one bucket, corrected by the errors of recent ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Pairs of the estimated and the used tokens of a call.
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._outputs: deque[int] = deque(maxlen=_RECENT)

    def of_prompt(self, characters: int) -> float:
        """Return the estimate for such a prompt: from its length, and the mean of recent answers."""
        with self._lock:
            outputs = list(self._outputs)
        return characters / CHARACTERS_PER_TOKEN + (sum(outputs) / len(outputs) if outputs else FIRST_OUTPUT)

    @property
    def mean(self) -> float:
        """The mean number of tokens of recent calls."""
        with self._lock:
            used = [pair[1] for pair in self._recent]
        return sum(used) / len(used) if used else FIRST_OUTPUT

    def corrected(self, estimate: float) -> float:
        """Return the reserve for an estimate: scaled by the recent ratio of used to estimated tokens."""
        with self._lock:
            estimated = sum(pair[0] for pair in self._recent)
            used = sum(pair[1] for pair in self._recent)
        return estimate * (min(used / estimated, MOST) if estimated else _CAUTION)

    def learn(self, estimate: float, used: float, output: int) -> None:
        """Learn from a call with this estimate, which used so many tokens."""
        with self._lock:
            self._recent.append((estimate, used))
            self._outputs.append(output)


def figure(where: str, value: object, unit: str = "tokens") -> float:
    """Return a number from the user unchanged.

    Raises:
        LimitError: if it is invalid. A NaN in a bucket, for one, would block all callers.
    """
    if not is_figure(value):
        raise LimitError(f"{where} {shown(value)}; expected a number of {unit} >= 0 and <= {MOST:g}.")
    return value


def characters(value: object) -> int:
    """Return the number of characters in a value: a string, or all strings in a mapping, list or message."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(characters(part) for part in cast("Mapping[Any, Any]", value).values())
    if isinstance(value, list | tuple):
        return sum(characters(part) for part in cast("list[Any]", value))
    # LangChain's messages have a `content`.
    content = getattr(value, "content", None)
    return 0 if content is None else characters(content)
