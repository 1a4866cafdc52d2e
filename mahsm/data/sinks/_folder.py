"""`Folder`: the folder of a sink, its manifest, its parts, and the lock of the run that writes it."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

from mahsm.data._ranges import Cut
from mahsm.data._writing import BESIDE, replacing, sync_folder
from mahsm.errors import DataError

VERSION = 1
"""The version of what a folder holds."""

MANIFEST, _LOCK, _ERRORS, _OPEN = "manifest.json", ".lock", "errors.jsonl", ".open-"


class Folder:
    """The folder of a sink.

    Args:
        path: Its absolute path.
        format: The format of its parts.
    """

    def __init__(self, path: str, format: str) -> None:
        self.path = path
        self._format = format
        self._lock: int | None = None

    def open(self) -> dict[str, Any]:
        """Take the lock; return the manifest, which is empty for a new sink.

        Raises:
            DataError: if another run writes it, or it holds anything else than a sink of this format.
        """
        import fcntl  # no module of Windows, where edges without a sink work

        try:
            os.makedirs(self.path, exist_ok=True)
            self._manifest()  # a folder that is not a sink is left as it is
            self._lock = os.open(self._in(_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileExistsError as error:
            raise DataError(f"{self.path!r} is a file; expected a folder, new, empty or a sink.") from error
        except OSError as error:
            raise DataError(f"{self.path!r} cannot be written: {error.strerror}.") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            manifest = self._manifest()
        except OSError as error:
            self.close()
            raise DataError(
                f"{self.path!r}: another run writes it. Wait for its end, or pass another folder."
            ) from error
        except BaseException:
            self.close()
            raise
        self._remove_beside()
        return manifest

    def _manifest(self) -> dict[str, Any]:
        manifest = manifest_of(self.path)
        if manifest is None:
            others = [name for name in os.listdir(self.path) if name != _LOCK and not name.endswith(BESIDE)]
            if others:
                raise DataError(
                    f"{self.path!r} holds {sorted(others)[0]!r}, and is not a sink. Pass an empty or new "
                    "folder."
                )
            return {}
        # A sink without parts may go on in another format, such as one that its results fit in.
        if manifest["format"] != self._format and self._has_parts(manifest):
            raise DataError(
                f"{self.path!r} holds {manifest['format']} parts, and the sink writes {self._format}. Pass "
                "another folder."
            )
        return manifest

    def _has_parts(self, manifest: dict[str, Any]) -> bool:
        missing = sum(1 for _ in missing_parts(self.path, manifest))
        return manifest["report"] is not None or missing < manifest["parts"]

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replace the manifest."""
        with replacing(self._in(MANIFEST)) as file:
            written = json.dumps(manifest | {"version": VERSION, "format": self._format}, indent=2)
            file.write(written.encode() + b"\n")

    def part(self, number: int) -> str:
        """Return the path of a part."""
        return part_path(self.path, number, self._format)

    def errors(self, number: int) -> str:
        """Return the path of the errors of a part, until the sink is complete."""
        return self._in(f"errors-{number:06}.jsonl")

    def journal(self, number: int) -> str:
        """Return the path of the journal of a part."""
        return self._in(f"{_OPEN}{number:06}")

    def has(self, number: int) -> bool:
        """Return whether a part is there."""
        return os.path.exists(self.part(number))

    def has_results(self) -> bool:
        """Return whether any result is there, in a part or in a journal."""
        with os.scandir(self.path) as entries:
            return any(
                entry.name.startswith("part-") or (entry.name.startswith(_OPEN) and entry.stat().st_size)
                for entry in entries
            )

    def count_errors(self, number: int) -> int:
        """Return how many items of a part failed."""
        with suppress(FileNotFoundError), open(self.errors(number), "rb") as file:
            return sum(1 for _ in file)
        return 0

    def collect_errors(self, parts: int) -> None:
        """Write the errors of all parts to one file."""
        with replacing(self._in(_ERRORS)) as together:
            for number in range(parts):
                with suppress(FileNotFoundError), open(self.errors(number), "rb") as file:
                    together.writelines(file)

    def tidy(self, parts: int) -> None:
        """Remove what a complete sink does not need."""
        for number in range(parts):
            for path in (self.errors(number), self.journal(number)):
                with suppress(FileNotFoundError):
                    os.unlink(path)
        sync_folder(self.path)

    def _remove_beside(self) -> None:
        for name in os.listdir(self.path):
            if name.startswith(".") and name.endswith(BESIDE):
                os.unlink(self._in(name))

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _in(self, name: str) -> str:
        return os.path.join(self.path, name)


def manifest_of(path: str) -> dict[str, Any] | None:
    """Return the manifest of a sink; None if the folder has none.

    Raises:
        DataError: if another version of mahsm wrote it, or it is broken.
    """
    try:
        with open(os.path.join(path, MANIFEST), "rb") as file:
            manifest: Any = json.loads(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path!r}: {MANIFEST} cannot be read: {error}. Pass another folder.") from error
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise DataError(
            f"{path!r}: {MANIFEST} was written by another version of mahsm. Go on with that version, or "
            "pass another folder."
        )
    if lacks := _KEYS - manifest.keys():
        raise DataError(f"{path!r}: {MANIFEST} lacks {sorted(lacks)[0]!r}. Pass another folder.")
    return cast("dict[str, Any]", manifest)


_KEYS = {"source", "target", "cut", "rows", "parts", "report", "format"}


def part_path(path: str, number: int, format: str) -> str:
    """Return the path of a part."""
    return os.path.join(path, f"part-{number:06}.{format}")


def cut_of(manifest: dict[str, Any], wanted: Cut) -> Cut:
    """Return how a sink is cut into parts: as it was begun, or else as wanted."""
    return Cut(**manifest["cut"]) if manifest else wanted


def check_parts(path: str, manifest: dict[str, Any]) -> None:
    """Check that all parts are there.

    Raises:
        DataError: if the run has not ended, or a part was removed after it.
    """
    lacks = sum(1 for _ in missing_parts(path, manifest))
    if lacks and manifest["report"]:
        raise DataError(
            f"{path!r} lacks {lacks} of {manifest['parts']} parts, which were removed after its run had "
            "ended. Put them back, or remove the folder to begin anew."
        )
    if lacks:
        raise DataError(
            f"{path!r} lacks {lacks} of {manifest['parts']} parts, since its run has not ended. Run it "
            "again; it goes on where it was."
        )


def missing_parts(path: str, manifest: dict[str, Any]) -> Iterator[int]:
    """Yield the numbers of the parts that are not there."""
    for number in range(manifest["parts"]):
        if not os.path.exists(part_path(path, number, manifest["format"])):
            yield number
