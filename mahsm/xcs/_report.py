"""Reports of the calls of jitted functions: their steps, and where their own code waited."""

import os
import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field


@dataclass
class StepRecord:
    """One step of a call.

    Attributes:
        place: Its place among the steps.
        name: The name of what was called.
        after: The places of the steps whose results were among its arguments, still pending.
        began: `time.monotonic()` when it was called, or None.
        ended: `time.monotonic()` when it ended, or None.
        error: The name of the class of its error, or None.
    """

    place: int
    name: str
    after: Sequence[int]
    began: float | None = None
    ended: float | None = None
    error: str | None = None

    @property
    def seconds(self) -> float:
        """How long it took."""
        return 0.0 if self.began is None or self.ended is None else self.ended - self.began

    def begin(self) -> None:
        """Note that it was called."""
        self.began = time.monotonic()

    def end(self, error: BaseException | None) -> None:
        """Note that it has ended."""
        self.ended = time.monotonic()
        self.error = None if error is None else type(error).__name__


@dataclass(frozen=True)
class Wait:
    """One wait of a function's own code for a pending value.

    Attributes:
        file: The file.
        line: The line that waited.
        began: `time.monotonic()` at its beginning.
        ended: `time.monotonic()` at its end.
        steps: The places of the steps that it waited for.
    """

    file: str
    line: int
    began: float
    ended: float
    steps: Sequence[int]


@dataclass
class Report:
    """What one call of a jitted function did.

    Attributes:
        name: The function's name.
        steps: Its steps, in the order of the program.
        waits: Where its own code waited.
        began: `time.monotonic()` at its beginning.
        ended: `time.monotonic()` at its end, or None.
    """

    name: str
    steps: list[StepRecord] = field(default_factory=list["StepRecord"])
    waits: list[Wait] = field(default_factory=list["Wait"])
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None
    _places: dict[int, int] = field(default_factory=dict[int, int], repr=False)

    def step(self, number: int, name: str, after: Collection[int]) -> StepRecord:
        """Note a new step.

        Args:
            number: Its number in the order of the program, among all that it computes.
            name: The name of what was called.
            after: The numbers of the steps that it needs.
        """
        place = self._places[number] = len(self.steps)
        record = StepRecord(place, name, self._places_of(after))
        self.steps.append(record)
        return record

    def waited(self, file: str, line: int, began: float, numbers: Collection[int]) -> None:
        """Note the end of a wait for the steps of these numbers."""
        self.waits.append(Wait(file, line, began, time.monotonic(), self._places_of(numbers)))

    def _places_of(self, numbers: Collection[int]) -> Sequence[int]:
        # A value may come from another run.
        return sorted(self._places[number] for number in numbers if number in self._places)

    def end(self) -> None:
        """Note the end of the call."""
        self.ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the call took."""
        return (self.ended or time.monotonic()) - self.began

    @property
    def saved(self) -> float:
        """Seconds that were saved: those of all steps together, without those of the call."""
        return max(0.0, sum(step.seconds for step in self.steps) - self.seconds)

    def __repr__(self) -> str:
        number = f"{len(self.steps)} step{'' if len(self.steps) == 1 else 's'}"
        lines = [
            f"{self.name}: {number} in {_ms(self.seconds)}, {_ms(self.saved)} saved "
            "by running them beside each other"
        ]
        for step in self.steps:
            after = ", ".join(map(str, step.after))
            failed = "" if step.error is None else f", {step.error}"
            lines.append(
                f"  {step.place} {step.name} {_ms(step.seconds)}{f' after {after}' if after else ''}{failed}"
            )
        spent: dict[tuple[str, int], float] = defaultdict(float)
        for wait in self.waits:
            spent[wait.file, wait.line] += wait.ended - wait.began
        for (file, line), seconds in sorted(spent.items(), key=lambda pair: -pair[1]):
            if seconds >= 0.001:
                place = f"{os.path.basename(file)}:{line}"
                lines.append(f"  waited {_ms(seconds)} at {place}; mark what uses the value with @xcs.step")
        return "\n".join(lines)

    def mermaid(self) -> str:
        """Return the steps and their dependencies as a Mermaid flowchart."""
        lines = ["flowchart TD"]
        for step in self.steps:
            label = step.name.replace('"', "'")
            lines.append(f'    s{step.place}["{label} {_ms(step.seconds)}"]')
            lines += [f"    s{before} --> s{step.place}" for before in step.after]
        return "\n".join(lines)

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, str]:
        return {"text/plain": repr(self), "text/vnd.mermaid": self.mermaid()}


def _ms(seconds: float) -> str:
    return f"{seconds * 1_000:.0f} ms"
