"""The documents of the demo: installed packages, or files of your own."""

import glob
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from mahsm.errors import StateError


class Document(TypedDict):
    """A document; the graph adds the count of each of the question's terms in it, and its length in terms."""

    name: str
    text: str
    counts: list[int]
    length: int


def installed() -> list[Document]:
    """Return the descriptions of all installed Python distributions except mahsm, sorted by name."""
    found: dict[str, Document] = {}
    for distribution in distributions():
        # An `email.message.Message` at run time. Older metadata has the description as its body.
        metadata: Any = distribution.metadata
        name, summary = metadata["Name"], metadata.get("Summary") or ""
        text = metadata.get("Description") or metadata.get_payload()
        found.setdefault(name.lower(), _document(name, f"{summary}\n\n{text or ''}"))
    found.pop("mahsm", None)
    if not found:
        raise StateError(
            "no Python distribution is installed here; pass --files 'docs/*.md' to read "
            "documents of your own."
        )
    return [found[name] for name in sorted(found)]


def matching(patterns: Sequence[str]) -> list[Document]:
    """Return the text files that match the patterns, or are in matching folders, sorted by path.

    Raises:
        StateError: if a pattern matches no file, a folder has no text files, or a file is not a text file.
    """
    texts: dict[Path, str] = {}
    for pattern in patterns:
        folder = Path(pattern)
        files = (
            _inside(folder)
            if folder.is_dir()
            else {path: _read(path) for path in _files(glob.glob(pattern, recursive=True))}
        )
        if not files:
            wrong = "has no text files" if folder.is_dir() else "matches no file"
            raise StateError(
                f"--files {pattern!r} {wrong}; expected files to read, such as 'docs' or 'docs/*.md'."
            )
        texts = {**files, **texts}
    return [_document(str(path), text) for path, text in sorted(texts.items())]


def _inside(folder: Path) -> dict[Path, str]:
    """Return the text files of a folder and its subfolders, without hidden ones."""
    texts: dict[Path, str] = {}
    for path in _files(folder.rglob("*")):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            with suppress(StateError):
                texts[path] = _read(path)
    return texts


def _files(paths: Iterable[str | Path]) -> list[Path]:
    return sorted(path for path in map(Path, paths) if path.is_file())


def _document(name: str, text: str) -> Document:
    return Document(name=name, text=text, counts=[], length=0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise StateError(f"--files: {str(path)!r} is not a UTF-8 text file; pass text files only.") from None
