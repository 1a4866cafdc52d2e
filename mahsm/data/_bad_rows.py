"""`BadRow`: a row of a file that cannot be read."""

import json
from dataclasses import asdict, dataclass

from mahsm.errors import RowError


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read, in its place in a stream with `on_error="collect"`.

    Attributes:
        file: Path of the file; "" if the row is not of a file.
        line: The line that it begins at, from 1; in a Parquet file the row, from 1.
        problem: What is wrong with it.

    Example:
        >>> str(BadRow("rows.jsonl", 7, "it is not JSON").error)
        'rows.jsonl:7: it is not JSON'
    """

    file: str
    line: int
    problem: str

    @property
    def error(self) -> RowError:
        """The error that says so."""
        where = f"{self.file}:{self.line}" if self.file else f"row {self.line}"
        return RowError(f"{where}: {self.problem}")

    @property
    def as_line(self) -> bytes:
        """The line that stands for it in JSON Lines. It is no JSON, so no reader takes it for a row."""
        return _MARK + json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def of_line(cls, line: bytes) -> "BadRow | None":
        """Return the row of which `as_line` is the line; None for any other line."""
        if not line.startswith(_MARK):
            return None
        try:
            return cls(**json.loads(line.removeprefix(_MARK)))
        except (TypeError, ValueError, RecursionError):
            return None


_MARK = b"!"
