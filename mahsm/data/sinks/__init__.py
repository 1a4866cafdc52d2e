"""Sinks: results of an edge in files, part by part, in place of a list in the state.

- `_sinks`       `Jsonl`, `Parquet`, `Part`, `Report`
- `_folder`      the folder of a sink: its manifest, its parts, the lock of the run that writes it
- `_difference`  what tells two sources from each other
- `_journal`     results of parts that are not complete yet, so that a kill loses none
- `_run`         one run that writes a sink
- `_reading`     `read`: the results of a sink as a stream
"""

from mahsm.data.sinks._reading import read as read
from mahsm.data.sinks._sinks import FileSink as FileSink
from mahsm.data.sinks._sinks import Jsonl as Jsonl
from mahsm.data.sinks._sinks import Parquet as Parquet
from mahsm.data.sinks._sinks import Part as Part
from mahsm.data.sinks._sinks import Report as Report

__all__ = ["FileSink", "Jsonl", "Parquet", "Part", "Report", "read"]
