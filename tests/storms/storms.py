"""All storms, and how strong they are."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.storms import amounts, clocks, interruptions, processes

LIMIT = 900
"""Seconds after which a storm hangs: its process ends with the stacks of all threads."""


@dataclass(frozen=True)
class Storm:
    """One storm.

    Attributes:
        run: Does it so many times, and says what was seen; raises an AssertionError if something was wrong.
        small: How often under pytest.
        full: How often by the command line.
    """

    run: Callable[[int], str]
    small: int
    full: int


STORMS = {
    "cancels": Storm(interruptions.cancels, 30, 500),
    "interrupts": Storm(interruptions.interrupts, 12, 100),
    "jumps": Storm(clocks.jumps, 1, 10),
    "stops": Storm(clocks.stops, 1, 5),
    "forks": Storm(processes.forks, 4, 40),
    "spawns": Storm(processes.spawns, 2, 8),
    "growth": Storm(amounts.growth, 100, 2000),
    "items": Storm(amounts.items, 5_000, 1_000_000),
    "megabytes": Storm(amounts.megabytes, 5, 20),
}
