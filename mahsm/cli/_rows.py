"""The rows of `mahsm run`, and the state that each of them becomes."""

import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from mahsm._common import nearest, shown
from mahsm.cli._outcome import UsageError


def rows_of(names: list[str], field: str | None, limit: int | None) -> Any:
    """Return the rows of files, patterns or a loader as a stream.

    Args:
        names: Their names.
        field: Return the value of this field in place of each row.
        limit: Only so many rows.

    Raises:
        UsageError: if there is no name, or one is standard input.
        DataError: if a file cannot be read, or its format is unknown.
    """
    from mahsm.data._internal import stream_of

    if not names:
        raise UsageError("--input has no files; expected files or patterns, such as rows.jsonl.")
    for name in names:
        _check_can_be_read_again(name)
    rows = stream_of(names)
    if limit is not None:
        rows = rows.limit(limit)
    return rows if field is None else rows.map(_field(field))


def _check_can_be_read_again(name: str) -> None:
    path = Path(name)
    if name == "-" or (path.exists() and not path.is_file() and not path.is_dir()):
        raise UsageError(
            f"--input {name} is not a regular file: the same command could not read it again to go on. "
            "Write the rows to a file first, such as rows.jsonl."
        )


def _field(name: str) -> Callable[[Any], Any]:
    def field(row: Any) -> Any:
        try:
            return operator.itemgetter(name)(row)
        except (KeyError, TypeError, IndexError):
            raise UsageError(f"--field {name}: a row has no such field; {_fields_in(row, name)}") from None

    field.__qualname__ = f"field {name}"
    return field


def _fields_in(row: Any, wanted: str) -> str:
    """Return what a row has in place of a field, as a sentence."""
    if not isinstance(row, Mapping):
        return f"it is {shown(row)}, which has no fields. Leave --field out."
    names = [str(name) for name in cast("Mapping[Any, Any]", row)]
    has = f"it has {', '.join(map(repr, names)) or 'none'}."
    return f"{has} {nearest(wanted, names)}".rstrip()


def state_of(row: Any) -> dict[str, Any]:
    """Return the state that a row becomes: its fields, and the whole of it as `item`."""
    return {**cast("Mapping[str, Any]", row), "item": row} if isinstance(row, Mapping) else {"item": row}
