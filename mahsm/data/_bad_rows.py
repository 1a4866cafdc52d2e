"""`BadRow`: a row of a file that cannot be read."""

from dataclasses import dataclass

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
