"""Lines of text: a row of one field, `text`, for each line, empty ones too."""

from collections.abc import Iterator
from typing import Any

from mahsm.data._bad_rows import BadRow
from mahsm.data._formats.files import Mark, lines


class Text:
    """Lines of text in UTF-8."""

    def scan(self, path: str) -> Iterator[tuple[int, Mark]]:
        for line, mark in lines(path):
            yield len(line), mark

    def read(self, path: str, mark: Mark | None) -> Iterator[Any]:
        for line, (_, number) in lines(path, mark):
            try:
                row = {"text": line.rstrip(b"\r\n").decode()}
            except UnicodeDecodeError as error:
                row = BadRow(path, number, f"it is not UTF-8: {error}")
            yield row
