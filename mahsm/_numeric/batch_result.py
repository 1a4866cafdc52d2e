"""The results of a batch of states."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BatchResult:
    """The results of many states, in their order.

    Attributes:
        outcomes: For each state what it gives, or why it failed.
        failed: Why those failed that did, by place.
    """

    outcomes: list[Any]
    failed: dict[int, Exception]
