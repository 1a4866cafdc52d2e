"""Reports of the calls of jitted functions: their steps, and where their own code waited."""

import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class StepRecord:
    """One step of a call.

    Attributes:
        number: Its place in the order of the program, among all that it computes.
        place: Its place among the steps.
        name: The name of what was called.
        after: The `number`s of the steps whose results were among its arguments, still pending.
        began: `time.monotonic()` when it was called, or None.
        ended: `time.monotonic()` when it ended, or None.
        error: The name of the class of its error, or None.
    """

    number: int
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
        steps: The numbers of the steps that it waited for.
    """

    file: str
    line: int
    began: float
    ended: float
    steps: tuple[int, ...]


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

    def step(self, number: int, name: str, after: Sequence[int]) -> StepRecord:
        """Note a new step."""
        record = StepRecord(number, len(self.steps), name, after)
        self.steps.append(record)
        return record

    def waited(self, wait: Wait) -> None:
        """Note a wait."""
        self.waits.append(wait)

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
        numbers = {step.number: place for place, step in enumerate(self.steps)}
        for place, step in enumerate(self.steps):
            after = ", ".join(f"{numbers[number]}" for number in step.after if number in numbers)
            failed = "" if step.error is None else f", {step.error}"
            lines.append(
                f"  {place} {step.name} {_ms(step.seconds)}{f' after {after}' if after else ''}{failed}"
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
        numbers = {step.number: place for place, step in enumerate(self.steps)}
        for place, step in enumerate(self.steps):
            label = step.name.replace('"', "'")
            lines.append(f'    s{place}["{label} {_ms(step.seconds)}"]')
            lines += [f"    s{numbers[number]} --> s{place}" for number in step.after if number in numbers]
        return "\n".join(lines)

    def _repr_mimebundle_(self, **kwargs: object) -> dict[str, str]:
        return {"text/plain": repr(self), "text/vnd.mermaid": self.mermaid()}


def _ms(seconds: float) -> str:
    return f"{seconds * 1_000:.0f} ms"
