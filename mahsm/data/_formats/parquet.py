"""Parquet files, read by pyarrow."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from mahsm.data._formats.files import Mark, arrow, readable

_BATCH = 1024
"""Rows that are decoded at a time."""


class Parquet:
    """Parquet."""

    def scan(self, path: str) -> Iterator[tuple[int, Mark]]:
        with _file(path) as file:
            row = 0
            for number in range(file.metadata.num_row_groups):
                group = file.metadata.row_group(number)
                size = group.total_byte_size // max(group.num_rows, 1)
                for _ in range(group.num_rows):
                    yield size, (row, row + 1)
                    row += 1

    def read(self, path: str, mark: Mark | None) -> Iterator[Any]:
        begin = 0 if mark is None else mark[0]
        with _file(path) as file:
            for number in range(file.metadata.num_row_groups):
                count = file.metadata.row_group(number).num_rows
                if begin < count:
                    for batch in file.iter_batches(batch_size=_BATCH, row_groups=[number]):
                        yield from batch.slice(begin).to_pylist()
                        begin = max(0, begin - batch.num_rows)
                else:
                    begin -= count


@contextmanager
def _file(path: str) -> Generator[Any, None, None]:
    parquet = arrow("pyarrow.parquet", path)
    with (
        readable(path, arrow("pyarrow", path).ArrowException, OSError),
        parquet.ParquetFile(path, memory_map=True, pre_buffer=False) as file,
    ):
        yield file
