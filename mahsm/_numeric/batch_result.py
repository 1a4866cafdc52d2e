"""The results of a batch of states."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BatchResult:
    """The results of many states, in order.

    Attributes:
        outcomes: For each state its result, or the exception.
        failed: The exceptions, by position.
    """

    outcomes: list[Any]
    failed: dict[int, Exception]
