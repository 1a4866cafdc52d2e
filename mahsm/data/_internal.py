"""Names of this package for edges and commands, and for nobody else."""

from mahsm.data._bad_rows import BadRow as BadRow
from mahsm.data._ranges import Cut as Cut
from mahsm.data._ranges import Ranges as Ranges
from mahsm.data._ranges import ranges_of as ranges_of
from mahsm.data._ranges import ranges_of_list as ranges_of_list
from mahsm.data._stream import stream_of as stream_of
from mahsm.data.sinks import FileSink as FileSink
from mahsm.data.sinks import Part as Part
from mahsm.data.sinks._folder import MANIFEST as MANIFEST
from mahsm.data.sinks._folder import manifest_of as manifest_of
from mahsm.data.sinks._run import SinkRun as SinkRun
from mahsm.data.sinks._run import sink_run as sink_run

__all__ = [
    "MANIFEST",
    "BadRow",
    "Cut",
    "FileSink",
    "Part",
    "Ranges",
    "SinkRun",
    "manifest_of",
    "ranges_of",
    "ranges_of_list",
    "sink_run",
    "stream_of",
]
