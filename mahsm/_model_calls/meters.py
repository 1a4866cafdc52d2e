"""What calls of models take: counted where they are made, added up wherever somebody asks."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from mahsm._common import Answer


class Meter:
    """Adds up calls and answers. Safe in threads.

    Attributes:
        calls: Calls of models, or of targets that called none; less the cached ones.
        answers: Answers that were reported.
        cached: Those of them that came from a cache.
        unknown: Those of them that do not say how many tokens they took.
        input_tokens: Tokens of prompts.
        output_tokens: Tokens of answers.
        usd: Their price, as far as it is known.
        most_calls: How many calls attempts may begin.
    """

    most_calls: float | None = None

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls: int = 0
        self.answers: int = 0
        self.cached: int = 0
        self.unknown: int = 0
        self.input_tokens: int = 0
        self.output_tokens: int = 0
        self.usd: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input_tokens + self.output_tokens

    def call(self, *, most: float | None = None) -> bool:
        """A call begins, unless there have been `most` calls; whether it does."""
        with self._lock:
            if most is not None and self.calls >= most:
                return False
            self.calls += 1
            return True

    def uncall(self) -> None:
        """The call is not made."""
        with self._lock:
            self.calls -= 1

    def answer(self, answer: Answer) -> None:
        """A call has ended with an answer."""
        with self._lock:
            self.answers += 1
            if answer.cached:
                self.cached += 1
                self.calls -= 1
                return
            self.unknown += not answer.known
            self.input_tokens += answer.input_tokens
            self.output_tokens += answer.output_tokens
            self.usd += answer.usd or 0.0


class AttemptCounter(Meter):
    """The meter of one attempt of an item.

    Args:
        counted: It has been counted as a call, which the first call inside stands for.
    """

    def __init__(self, *, counted: bool = False) -> None:
        super().__init__()
        self._is_counted = not counted

    def already_counted(self) -> bool:
        """Whether a call inside is the one that was counted, in the meters around, when the attempt began."""
        with self._lock:
            first, self._is_counted = not self._is_counted, True
        return first


_meters: ContextVar[tuple[Meter, ...]] = ContextVar("mahsm_meters", default=())


def is_metered() -> bool:
    """Whether anybody counts what is called here."""
    return bool(_meters.get())


@contextmanager
def metered(meter: Meter) -> Generator[None, None, None]:
    """Count what is called in the block, here and in the meters around."""
    token = _meters.set((*_meters.get(), meter))
    try:
        yield
    finally:
        _meters.reset(token)


def count_call() -> None:
    """A call begins here, whatever is spent."""
    for meter in _uncounted():
        meter.call()


def count_attempt() -> Meter | None:
    """An attempt of an item begins here, if no meter is at its `most_calls`; else the meter that is."""
    counted: list[Meter] = []
    for meter in _uncounted():
        if not meter.call(most=meter.most_calls):
            for one in counted:
                one.uncall()
            return meter
        counted.append(meter)
    return None


def in_attempt() -> bool:
    """Whether an attempt of an item is running here."""
    return any(isinstance(meter, AttemptCounter) for meter in _meters.get())


def _uncounted() -> Generator[Meter, None, None]:
    """The meters that have not counted a call which begins here, from the inside out.

    When an attempt began, those around it counted it as a call, which the first call inside of it is.
    """
    for meter in reversed(_meters.get()):
        yield meter
        if isinstance(meter, AttemptCounter) and meter.already_counted():
            return


def count_answer(answer: Answer) -> None:
    """A call has ended here."""
    for meter in _meters.get():
        meter.answer(answer)
