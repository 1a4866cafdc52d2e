"""Where the documents of the demo come from."""

import glob
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from mahsm.errors import StateError


class Document(TypedDict):
    """A text with a name; the graph adds how often each term of the question stands in it, and its length in terms."""

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
        raise StateError("no Python distribution is installed here; pass --files 'docs/*.md' to read documents of your own.")
    return [found[name] for name in sorted(found)]


def matching(patterns: Sequence[str]) -> list[Document]:
    """The text files that match the patterns, by path.

    Raises:
        StateError: if a pattern matches no file, or a file is no text.
    """
    paths: list[Path] = []
    for pattern in patterns:
        files = sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file())
        if not files:
            raise StateError(f"--files {pattern!r} matches no file; expected files to read, as 'docs/*.md'.")
        paths.extend(path for path in files if path not in paths)
    return [_document(str(path), _read(path)) for path in paths]


def _document(name: str, text: str) -> Document:
    return Document(name=name, text=text, counts=[], length=0)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise StateError(f"--files: {str(path)!r} is no text in UTF-8; name text files only.") from None
