"""JSON Lines: a JSON value in each line; empty lines are left out."""

from collections.abc import Iterator
from typing import Any

from mahsm.data._bad_rows import BadRow
from mahsm.data._formats.files import Mark, lines
from mahsm.data._json import parsed


class Jsonl:
    """JSON Lines."""

    def scan(self, path: str) -> Iterator[tuple[int, Mark]]:
        with lines(path) as found:
            for line, mark in found:
                if not line.isspace() and line:
                    yield len(line), mark

    def read(self, path: str, mark: Mark | None) -> Iterator[Any]:
        with lines(path, mark) as found:
            for line, (_, number) in found:
                if line.isspace() or not line:
                    continue
                try:
                    row = parsed(line.rstrip())
                except ValueError as error:
                    row = BadRow.of_line(line)
                    row = row or BadRow(path, number, f"it is not JSON: {_of_column(str(error))}")
                yield row


def _of_column(message: str) -> str:
    """Return a message that counts only columns, since the line is known."""
    return message.replace(" at line 1 column ", " at column ")
