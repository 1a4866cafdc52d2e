"""Questions at a terminal, and keys from standard input.

Questions go to stderr, since stdout has what a command prints.
"""

import getpass
import sys
from typing import overload

from mahsm.cli._outcome import UsageError


def at_terminal() -> bool:
    """Return whether a user can answer."""
    return sys.stdin is not None and sys.stdin.isatty()  # pyright: ignore[reportUnnecessaryComparison]


def asked(question: str, default: str | None = None) -> str:
    """Return the answer to a question, asked until there is one.

    Args:
        question: Such as "Provider".
        default: What Enter stands for; None for nothing.

    Raises:
        UsageError: at the end of the input.
    """
    hint = f" [{default}]" if default else ""
    while True:
        print(f"{question}{hint}: ", end="", file=sys.stderr, flush=True)  # noqa: T201
        line = sys.stdin.readline()
        if not line:
            raise _ended(question)
        if answer := line.strip() or default:
            return answer


def agreed(question: str) -> bool:
    """Return whether the user says yes to a question; Enter and Ctrl+D are no."""
    try:
        return asked(f"{question} (yes/no)", "no").lower() in ("y", "yes")
    except UsageError:
        return False


@overload
def key_of(name: str) -> str: ...
@overload
def key_of(name: str, *, optional: bool) -> str | None: ...
def key_of(name: str, *, optional: bool = False) -> str | None:
    """Return a credential: typed at a terminal, which does not show it, or read from standard input.

    Args:
        name: What is asked for.
        optional: Return None if it is empty.

    Raises:
        UsageError: if it has spaces, or is empty and not optional; at the end of the input.
    """
    words = _key(name).split()
    if optional and not words:
        return None
    if not words:
        raise UsageError(f"{name}: no key; type it at a terminal, or pipe it in.")
    if len(words) > 1:
        raise UsageError(f"{name}: {len(words)} words; expected a key without spaces.")
    return words[0]


def _key(name: str) -> str:
    if not at_terminal():
        return _piped()
    try:
        return getpass.getpass(f"{name}: ")
    except EOFError:
        raise _ended(name) from None


def _ended(question: str) -> UsageError:
    print(file=sys.stderr)  # noqa: T201  # ends the line of the question
    return UsageError(f"the input ended at the question {question!r}; expected an answer.")


def _piped() -> str:
    # None if the process has no standard input.
    return sys.stdin.read() if sys.stdin is not None else ""  # pyright: ignore[reportUnnecessaryComparison]
