"""Lines of text: a row of one field, `text`, for each line, empty ones too."""

from collections.abc import Iterator
from typing import Any

from mahsm.data._bad_rows import BadRow
from mahsm.data._formats.files import Mark, lines


class Text:
    """Lines of text in UTF-8."""

    def scan(self, path: str) -> Iterator[tuple[int, Mark]]:
        with lines(path) as found:
            for line, mark in found:
                yield len(line), mark

    def read(self, path: str, mark: Mark | None) -> Iterator[Any]:
        with lines(path, mark) as found:
            for line, (_, number) in found:
                try:
                    row = {"text": line.rstrip(b"\r\n").decode()}
                except UnicodeDecodeError as error:
                    row = BadRow(path, number, f"it is not UTF-8: {error}")
                yield row
