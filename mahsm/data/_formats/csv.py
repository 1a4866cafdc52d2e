"""CSV and TSV: a row with a string for each column that the first line names."""

import csv
from collections.abc import Iterator
from typing import Any

from mahsm.data._bad_rows import BadRow
from mahsm.data._formats.files import Mark, lines
from mahsm.errors import DataError

_LARGEST = 1 << 30
"""The most characters of a field; Python's own bound of 131,072 is below a long document."""


class Csv:
    """CSV.

    Args:
        delimiter: What stands between two fields.
    """

    def __init__(self, delimiter: str) -> None:
        self._delimiter = delimiter

    def scan(self, path: str) -> Iterator[tuple[int, Mark]]:
        self._header(path)  # without one that can be read, no row can be
        with lines(path) as found:
            records = _Records(path, self._delimiter, found)
            next(records, None)  # the header
            for _ in records:
                yield records.size, records.mark

    def read(self, path: str, mark: Mark | None) -> Iterator[Any]:
        header = self._header(path)
        with lines(path, mark) as found:
            records = _Records(path, self._delimiter, found)
            if mark is None:
                next(records, None)
            for values in records:
                if isinstance(values, BadRow):
                    yield values
                elif len(values) != len(header):
                    wrong = f"it has {len(values)} fields, and the header {len(header)}"
                    yield BadRow(path, records.mark[1], wrong)
                else:
                    yield dict(zip(header, values, strict=True))

    def _header(self, path: str) -> list[str]:
        nothing: list[str] = []
        with lines(path) as found:
            header = next(_Records(path, self._delimiter, found), nothing)
        if isinstance(header, BadRow) or len(set(header)) < len(header):
            problem = header.problem if isinstance(header, BadRow) else f"{header} has a name twice"
            raise DataError(f"{path}: the first line is to name the columns, and {problem}.")
        return header


class _Records(Iterator[list[str] | BadRow]):
    """The records in some lines; empty lines between them are left out.

    Attributes:
        mark: Where the last record began.
        size: Its bytes.
    """

    def __init__(self, path: str, delimiter: str, found: Iterator[tuple[bytes, Mark]]) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), _LARGEST))
        self._path = path
        self._lines = found
        self._taken: list[Mark] = []
        self._problem = ""
        self._reader = csv.reader(self._texts(), delimiter=delimiter, strict=True)
        self.mark: Mark = (0, 1)
        self.size = 0

    def _texts(self) -> Iterator[str]:
        for line, mark in self._lines:
            self._taken.append(mark)
            self.size += len(line)
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                self._problem = f"it is not UTF-8: {error}"
                yield line.decode(errors="replace")

    def __next__(self) -> list[str] | BadRow:
        while True:
            self._taken.clear()
            self.size, self._problem = 0, ""
            try:
                values = next(self._reader)
            except csv.Error as error:
                values, self._problem = [""], f"it is not CSV: {error}"
            if values:
                self.mark = self._taken[0]
                return BadRow(self._path, self.mark[1], self._problem) if self._problem else values
