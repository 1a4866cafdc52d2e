"""Notes on exceptions that say where they happened."""

import threading

_MOST = 5
"""The most notes of one exception. Nested edges that it passes through add one each; this bound is for an
exception that many items share."""

_OURS = "mahsm: "
_REST = f"{_OURS}the same exception was noted more often; further notes are left out"
_lock = threading.Lock()


def add_note(error: BaseException, text: str) -> None:
    """Add a note to an exception, unless it has enough notes of mahsm already."""
    with _lock:
        ours = sum(note.startswith(_OURS) for note in getattr(error, "__notes__", ()))
        if ours < _MOST:
            error.add_note(_OURS + text)
        elif ours == _MOST:
            error.add_note(_REST)
