"""One run that writes a sink: which results are there already, and what becomes of new ones."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol, cast

from mahsm.data._json import json_line
from mahsm.data._ranges import Cut, Ranges
from mahsm.data._writing import replacing
from mahsm.data.sinks._difference import difference
from mahsm.data.sinks._folder import Folder, check_parts, cut_of
from mahsm.data.sinks._journal import FAILED, Journal
from mahsm.data.sinks._sinks import FileSink, Part, Report
from mahsm.errors import DataError


class SinkRun(Protocol):
    """One run that writes a sink."""

    failed: int
    """How many items have failed, those of earlier runs included."""

    @property
    def cut(self) -> Cut:
        """How the batch is cut into parts."""
        ...

    def begin(self, ranges: Ranges, target: str) -> None:
        """Begin, given the batch and the name of what makes the results."""
        ...

    def missing(self, number: int) -> Sequence[int]:
        """Return the places of a part that have no result yet."""
        ...

    def add(self, place: int, entry: Any, error: Mapping[str, Any] | None, item: Any) -> None:
        """Take a result."""
        ...

    def part(self, number: int) -> Any:
        """Write a part, once it has all its results; the call blocks.

        A function as a sink may return an awaitable.
        """
        ...

    def end(self) -> Report:
        """End after the last part was written; return the report."""
        ...

    def close(self) -> None:
        """Let go of the sink, at the end or at an error."""
        ...


class FileRun:
    """One run that writes a sink of files.

    Args:
        sink: The sink.
        cut: How a new sink is cut into parts.
    """

    def __init__(self, sink: FileSink, cut: Cut) -> None:
        self._sink = sink
        self._folder = Folder(str(sink.path), sink.format)
        self._manifest = self._folder.open()
        if self._manifest and not self._manifest["report"] and not self._folder.has_results():
            self._manifest = {}  # Its run failed before its first result; any other may begin here.
        self.cut = cut_of(self._manifest, cut)
        self._open: dict[int, _OpenPart] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        self.failed: int = 0

    def begin(self, ranges: Ranges, target: str) -> None:
        """Begin.

        Raises:
            DataError: if the sink was begun with another source or target.
        """
        self._ranges = ranges
        manifest = {
            "source": ranges.identity,
            "target": target,
            "cut": asdict(self.cut),
            "rows": len(ranges),
            "parts": ranges.number_of_ranges,
        }
        if not self._manifest:
            self._manifest = {**manifest, "report": None}
            self._folder.write_manifest(self._manifest)
            return
        self._check(manifest)
        if self._manifest["format"] != self._sink.format:
            self._folder.write_manifest(self._manifest)
        if self._manifest["report"]:
            check_parts(self._folder.path, self._manifest)
            self.failed = cast("Report", self._manifest["report"])["errors"]
            self._folder.tidy(ranges.number_of_ranges)
        else:
            written = filter(self._folder.has, range(ranges.number_of_ranges))
            self.failed = sum(map(self._folder.count_errors, written))

    def _check(self, now: dict[str, Any]) -> None:
        begun = cast("dict[str, Any]", self._manifest)
        if begun["source"] != now["source"]:
            found = f"rows of another source: {difference(begun['source'], now['source'])}"
        elif begun["target"] != now["target"]:
            found = f"results of another target: {begun['target']} and not {now['target']}"
        else:
            return
        raise DataError(f"{self._folder.path!r} has {found}. Pass another folder, or what it was begun with.")

    def missing(self, number: int) -> Sequence[int]:
        """Return the places of a part that have no result yet."""
        if self._manifest.get("report") or self._folder.has(number):
            return ()
        part = self._part(number)
        span = self._ranges.span(number)
        if len(part.lines) == len(span):
            self.part(number)  # a run ended between its last result and the writing of it
            return ()
        return span if not part.lines else [place for place in span if place not in part.lines]

    def add(self, place: int, entry: Any, error: Mapping[str, Any] | None, item: Any) -> None:
        """Take a result."""
        number = self._ranges.number(place)
        if error is None:
            line = json_line(entry, self._folder.path)
        else:
            line = FAILED + _error_line(error, item, self._folder.path)
        with self._lock:
            if self._is_closed:
                return  # another run may write the folder by now; it calls the item again
            part = self._part(number)
            part.journal.add(place, line)
            part.lines[place] = line
            self.failed += error is not None

    def _part(self, number: int) -> "_OpenPart":
        part = self._open.get(number)
        if part is None:
            journal = Journal(self._folder.journal(number))
            part = self._open[number] = _OpenPart(journal)
            self.failed += sum(line.startswith(FAILED) for line in part.lines.values())
        return part

    def part(self, number: int) -> None:
        """Write a part."""
        with self._lock:
            part = self._open[number]
        lines = [part.lines[place] for place in self._ranges.span(number)]
        errors = [line.removeprefix(FAILED) for line in lines if line.startswith(FAILED)]
        if errors:
            with replacing(self._folder.errors(number)) as file:
                file.writelines(errors)
        with replacing(self._folder.part(number)) as file:
            self._sink.write(file, [line for line in lines if not line.startswith(FAILED)])
        part.journal.remove()
        with self._lock:
            del self._open[number]

    def end(self) -> Report:
        """End; the sink is complete."""
        if self._manifest.get("report"):
            return cast("Report", self._manifest["report"])
        parts = self._ranges.number_of_ranges
        self._folder.collect_errors(parts)
        report = Report(
            rows=len(self._ranges) - self.failed, parts=parts, errors=self.failed, path=self._folder.path
        )
        self._folder.write_manifest({**self._manifest, "report": report})
        self._folder.tidy(parts)
        return report

    def close(self) -> None:
        """Keep the results of open parts, and give the folder back."""
        with self._lock:
            self._is_closed = True
            for part in self._open.values():
                part.journal.close()
        self._folder.close()


class _OpenPart:
    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.lines = journal.read()


def _error_line(error: Mapping[str, Any], item: Any, path: str) -> bytes:
    try:
        return json_line({**error, "item": item}, path)
    except DataError:
        return json_line(error, path)


class FunctionRun:
    """One run whose parts a function takes.

    Args:
        function: Called with each `Part`.
        cut: How the batch is cut.
    """

    def __init__(self, function: Callable[[Part], Any], cut: Cut) -> None:
        self._function = function
        self.cut = cut
        self._open: dict[int, dict[int, tuple[Any, Mapping[str, Any] | None]]] = {}
        self._lock = threading.Lock()
        self._rows = self.failed = 0

    def begin(self, ranges: Ranges, target: str) -> None:
        """Begin."""
        self._ranges = ranges

    def missing(self, number: int) -> Sequence[int]:
        """Return the places of a part: a function has no results of an earlier run."""
        return self._ranges.span(number)

    def add(self, place: int, entry: Any, error: Mapping[str, Any] | None, item: Any) -> None:
        """Take a result."""
        number = self._ranges.number(place)
        with self._lock:
            self._open.setdefault(number, {})[place] = entry, error

    def part(self, number: int) -> Any:
        """Give a part to the function."""
        with self._lock:
            found = self._open.pop(number)
        places = self._ranges.span(number)
        outcomes = [found[place] for place in places]
        errors = [error for _, error in outcomes if error is not None]
        entries = [entry for entry, error in outcomes if error is None]
        with self._lock:
            self._rows += len(entries)
            self.failed += len(errors)
        return self._function(Part(number, places, entries, errors))

    def end(self) -> Report:
        """End."""
        return Report(rows=self._rows, parts=self._ranges.number_of_ranges, errors=self.failed)

    def close(self) -> None:
        """Do nothing: the function has all that was complete."""


def sink_run(sink: FileSink | Callable[[Part], Any], cut: Cut) -> SinkRun:
    """Begin to write a sink.

    Raises:
        DataError: if another run writes it, or it holds anything else.
    """
    return FileRun(sink, cut) if isinstance(sink, FileSink) else FunctionRun(sink, cut)
