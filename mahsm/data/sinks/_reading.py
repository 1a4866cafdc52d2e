"""`read`: the results of a sink as a stream."""

import os
from typing import Any

from mahsm.data._sources import Files
from mahsm.data._stream import Stream
from mahsm.data.sinks._folder import manifest_of, missing_parts, part_path
from mahsm.errors import DataError


def read(path: str | os.PathLike[str]) -> Stream[Any]:
    """Return the results in a sink of files as a stream, in the order of the items.

    Args:
        path: The folder.

    Raises:
        DataError: if the folder is no sink, or its run has not ended.

    Example:
        See `Jsonl`.
    """
    folder = os.path.abspath(path)
    manifest = manifest_of(folder)
    if manifest is None:
        raise DataError(f"{folder!r} is no sink: it has no manifest.json. Pass the folder of a sink.")
    if lacks := list(missing_parts(folder, manifest)):
        raise DataError(
            f"{folder!r} lacks {len(lacks)} of {manifest['parts']} parts, since its run has not ended. Run "
            "it again; it goes on where it was."
        )
    parts = [part_path(folder, number, manifest["format"]) for number in range(manifest["parts"])]
    return Stream(Files.of(parts, manifest["format"], "raise"))
