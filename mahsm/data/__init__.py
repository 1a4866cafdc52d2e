"""Streams of rows from files and iterables, and sinks for the results of edges.

- `_stream`    `stream`, and the methods of streams
- `_steps`     what becomes of each row: map, filter, batch, shuffle, sample, limit, skip
- `_sources`   where rows come from: files, iterables
- `_formats`   JSON Lines, CSV, text, Parquet
- `_bad_rows`  `BadRow`: a row that cannot be read
- `_cache`     the rows of a stream, kept in a file
- `_loaders`   `register`: sources by name
- `sinks`      results of an edge in files
- `_ranges`    the rows of a stream by their places, of which a few are in memory
- `_internal`  names for edges and commands
- `_json`      JSON of rows and results
- `_writing`   writing files so that a reader sees the whole file or none
"""

from mahsm.data import sinks as sinks
from mahsm.data._bad_rows import BadRow as BadRow
from mahsm.data._loaders import Loader as Loader
from mahsm.data._loaders import register as register
from mahsm.data._loaders import unregister as unregister
from mahsm.data._stream import Stream as Stream
from mahsm.data._stream import stream as stream

__all__ = ["BadRow", "Loader", "Stream", "register", "sinks", "stream", "unregister"]
