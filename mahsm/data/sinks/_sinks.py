"""`Jsonl` and `Parquet`, sinks of files; `Part`, what other sinks get; `Report`, what the state gets."""

import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, NotRequired, cast

from typing_extensions import TypedDict

from mahsm.data._json import parsed
from mahsm.errors import DataError


class Report(TypedDict):
    """What an edge with a sink writes to the state."""

    rows: int
    """Results in the sink."""
    parts: int
    """Parts in it."""
    errors: int
    """Items that failed."""
    path: NotRequired[str]
    """The folder of a sink of files."""


@dataclass(frozen=True)
class Part:
    """The results of a range of items, which a function as a sink gets.

    Attributes:
        number: The number of the range, from 0.
        places: The places of its items in the batch.
        entries: The results, in the order of the items; without those of items that failed.
        errors: The `ItemError`s of the items that failed.
    """

    number: int
    places: range
    entries: list[Any]
    errors: list[Mapping[str, Any]]


@dataclass(frozen=True)
class FileSink(ABC):
    """A folder with a file for each part of the results.

    The parts are `part-000000`, `part-000001` and so on; `errors.jsonl` has the items that failed, and
    `manifest.json` says what the results are of. A run that was killed goes on where it was.

    Args:
        path: The folder; it is made if it is missing, and refused if it holds anything else.
    """

    path: str | os.PathLike[str]

    format: ClassVar[str]

    def __post_init__(self) -> None:
        if not isinstance(self.path, str | os.PathLike) or not os.fspath(self.path):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DataError(
                f"sinks.{type(self).__name__}: path={self.path!r}; expected a folder, such as 'out'."
            )
        object.__setattr__(self, "path", os.path.abspath(self.path))

    @abstractmethod
    def write(self, file: BinaryIO, lines: Sequence[bytes]) -> None:
        """Write a part.

        Args:
            file: Where to.
            lines: The results, each a line of JSON.
        """


@dataclass(frozen=True)
class Jsonl(FileSink):
    """Results as JSON Lines.

    Dataclasses, pydantic models, dates, NumPy arrays and DSPy's predictions are written as what they hold.

    Args:
        path: The folder.

    Raises:
        DataError: if the path is none.

    Example:
        >>> import tempfile
        >>> from mahsm import vmap
        >>> from mahsm.data import sinks, stream
        >>> folder = tempfile.mkdtemp()
        >>> double = lambda state: {"n": 2 * state["item"]}
        >>> numbers = lambda state: stream(range(3))
        >>> edge = vmap(double, batch=numbers, out_key="done", sink=sinks.Jsonl(folder))
        >>> edge.invoke({})["done"]["rows"], sinks.read(folder).collect()
        (3, [{'n': 0}, {'n': 2}, {'n': 4}])
    """

    format = "jsonl"

    def write(self, file: BinaryIO, lines: Sequence[bytes]) -> None:
        file.writelines(lines)


@dataclass(frozen=True)
class Parquet(FileSink):
    """Results as Parquet files, each key of a result a column. Needs `pip install 'mahsm[data]'`.

    Results that are no dicts are in the column `value`. A column holds JSON values of one type; a key that a
    result lacks is null.

    Args:
        path: The folder.

    Raises:
        DataError: if the path is none, or pyarrow is not installed.
    """

    format = "parquet"

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            importlib.import_module("pyarrow")
        except ImportError as error:
            raise DataError(
                f"sinks.Parquet needs pyarrow ({error}). Run pip install 'mahsm[data]', or use sinks.Jsonl."
            ) from error

    def write(self, file: BinaryIO, lines: Sequence[bytes]) -> None:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
        rows = [_as_row(parsed(line)) for line in lines]
        # A table without columns has no rows either, so that empty dicts need one.
        names = list(dict.fromkeys(name for row in rows for name in row)) or ["value"]
        try:
            table = arrow.table({name: [row.get(name) for row in rows] for name in names})
            parquet.write_table(table, file)
        except (arrow.ArrowException, UnicodeEncodeError, OverflowError) as error:
            raise DataError(
                f"{self.path}: the results are no columns of one type each: {error}. Return the same "
                "types for all items, or use sinks.Jsonl, which takes any result; in the same folder, if "
                "it has no part yet: then no result is lost."
            ) from error


def _as_row(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {"value": value}
