"""A router's memory in a file: the first line is a state, the others are the events since."""

import json
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from mahsm._common import shown
from mahsm.errors import LearnError
from mahsm.learn._memory import Chose, Rewarded, Saved

_LONG = 10_000


class Journal:
    """A file of JSON lines.

    An event is appended by one system call, so it outlives the process at once; it outlives a loss of power
    when the system has written it. A state is written to another file, which replaces this one.

    Args:
        path: Path of the file, which is made if it is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.path.realpath(path)
        self._file: int | None = None
        self._size = 0
        self._events = 0
        self._waiting = 0

    def recall(self) -> tuple[Saved | None, Sequence[Chose | Rewarded]]:
        try:
            with open(self._path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return None, []
        # Behind the last line break is what a kill left of an event.
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        if not lines:
            if content:
                self._refuse(content)
            return None, []
        return Saved.of_json(self._path, self._value(lines[0])), [
            self._event(self._value(line)) for line in lines[1:]
        ]

    def append(self, event: Chose | Rewarded) -> None:
        if isinstance(event, Chose):
            value = event.as_json()
        else:
            value = {"rewarded": event.number, "value": event.value, "order": event.order}
        line = json.dumps(value).encode() + b"\n"
        assert self._file is not None, "a state is saved first"
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(f"{self._path}: only {written} of {len(line)} bytes were written.")
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(line)
        self._events += 1

    def is_long(self) -> bool:
        # A state has all waiting choices, and writing it takes as long as they are many.
        return self._events >= max(_LONG, 2 * self._waiting)

    def save(self, state: Saved) -> None:
        line = json.dumps(state.as_json()).encode() + b"\n"
        new, path = tempfile.mkstemp(
            prefix=f".{os.path.basename(self._path)}.", dir=os.path.dirname(self._path)
        )
        try:
            with open(new, "wb", closefd=False) as file:
                file.write(line)
            os.fsync(new)
            os.replace(path, self._path)
        except BaseException:
            os.close(new)
            os.unlink(path)
            raise
        self.close()
        # The descriptor of the new file, which has its name now.
        self._file, self._size, self._events = new, len(line), 0
        self._waiting = len(state.waiting)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    __del__ = close

    def _value(self, line: bytes) -> Any:
        try:
            return json.loads(line)
        except ValueError:
            return self._refuse(line)

    def _event(self, value: Any) -> Chose | Rewarded:
        if "chose" in value:
            return Chose(value["chose"], value["arm"], value["features"])
        return Rewarded(value["rewarded"], value["value"], value["order"])

    def _refuse(self, content: bytes) -> Any:
        raise LearnError(
            f"Router: store={self._path!r} has {shown(content)}; expected the lines that a router wrote. "
            "Pass another path, or remove the file."
        )
