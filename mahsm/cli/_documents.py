"""Where the documents of the demo come from."""

import glob
from collections.abc import Iterable, Sequence
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from mahsm.errors import StateError


class Document(TypedDict):
    """A text with a name; the graph adds how often each term of the question stands in it, and its length in
    terms.
    """

    name: str
    text: str
    counts: list[int]
    length: int


def installed() -> list[Document]:
    """The descriptions of the Python distributions that are installed here, but for mahsm's own, by name."""
    found: dict[str, Document] = {}
    for distribution in distributions():
        metadata: Any = distribution.metadata  # an email.message.Message, in fact
        name, summary = metadata["Name"], metadata.get("Summary") or ""
        text = metadata.get("Description") or metadata.get_payload()  # older metadata has it as its body
        found.setdefault(name.lower(), _document(name, f"{summary}\n\n{text or ''}"))
    found.pop("mahsm", None)
    if not found:
        raise StateError(
            "no Python distribution is installed here; pass --files 'docs/*.md' to read "
            "documents of your own."
        )
    return [found[name] for name in sorted(found)]


def matching(patterns: Sequence[str]) -> list[Document]:
    """The text files that match the patterns, by path; of a folder, all text files in it.

    Raises:
        StateError: if a pattern matches no file, a folder has no text file, or a file is no text.
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
    """The text files of a folder and of those in it, without hidden ones."""
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
        raise StateError(f"--files: {str(path)!r} is no text in UTF-8; name text files only.") from None
