"""Formats of files: how their rows are found and read.

- `files`    opening files, compressed ones too
- `jsonl`    JSON Lines
- `csv`      CSV and TSV
- `text`     lines of text
- `parquet`  Parquet, by pyarrow
"""

from pathlib import PurePath

from mahsm.data._formats import csv, jsonl, parquet, text
from mahsm.data._formats.files import COMPRESSED as COMPRESSED
from mahsm.data._formats.files import Format as Format
from mahsm.data._formats.files import Mark as Mark
from mahsm.errors import DataError

__all__ = ["COMPRESSED", "FORMATS", "Format", "Mark", "format_of"]

FORMATS: dict[str, Format] = {
    "jsonl": jsonl.Jsonl(),
    "csv": csv.Csv(","),
    "tsv": csv.Csv("\t"),
    "txt": text.Text(),
    "parquet": parquet.Parquet(),
}
"""The formats by name."""

_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl"} | {f".{name}": name for name in FORMATS}


def format_of(path: str) -> str:
    """Return the name of the format that a path's suffix says, such as "jsonl" for `rows.jsonl.gz`.

    Raises:
        DataError: if the suffix is unknown.
    """
    suffixes = [one.lower() for one in PurePath(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    found = _SUFFIXES.get(suffixes[-1] if suffixes else "")
    if found is None:
        more = (
            " A JSON document is not read row by row; write it as JSON Lines." if ".json" in suffixes else ""
        )
        raise DataError(
            f"{path!r}: expected a name that ends in {', '.join(_SUFFIXES)}, with or without one of "
            f"{', '.join(COMPRESSED)}.{more} Pass format= to say what it is."
        )
    return found
