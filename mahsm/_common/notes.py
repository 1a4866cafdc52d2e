"""Notes on exceptions that say where they happened."""

import threading

_MOST = 5
"""An exception that passes through nested edges gets a note of each; one that many items share must not get
one of each."""

_OURS = "mahsm: "
_REST = f"{_OURS}the same exception was noted more often; further notes are left out"
_lock = threading.Lock()


def add_note(error: BaseException, text: str) -> None:
    """Note something on an exception, unless it carries enough of our notes already."""
    with _lock:
        ours = sum(note.startswith(_OURS) for note in getattr(error, "__notes__", ()))
        if ours < _MOST:
            error.add_note(_OURS + text)
        elif ours == _MOST:
            error.add_note(_REST)
