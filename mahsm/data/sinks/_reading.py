"""`read`: the results of a sink as a stream."""

import os
from typing import Any

from mahsm.data._sources import Files
from mahsm.data._stream import Stream
from mahsm.data.sinks._folder import check_parts, manifest_of, part_path
from mahsm.data.sinks._sinks import FileSink
from mahsm.errors import DataError


def read(path: str | os.PathLike[str] | FileSink) -> Stream[Any]:
    """Return the results in a sink of files as a stream, in the order of the items.

    Args:
        path: The folder, or the sink.

    Raises:
        DataError: if the folder is not a sink, or its run has not ended.

    Example:
        See `Jsonl`.
    """
    folder = os.path.abspath(path.path if isinstance(path, FileSink) else path)
    manifest = manifest_of(folder)
    if manifest is None:
        raise DataError(
            f"{folder!r} is not a sink: it has no manifest.json. Pass the folder that a sink has written."
        )
    check_parts(folder, manifest)
    parts = [part_path(folder, number, manifest["format"]) for number in range(manifest["parts"])]
    return Stream(Files.of(parts, manifest["format"], "raise"))
