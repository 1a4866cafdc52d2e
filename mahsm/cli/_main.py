"""`main`: runs a command, and turns errors into exit codes."""

import os
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout

from mahsm.cli._commands import COMMANDS, GROUPS, app
from mahsm.cli._outcome import PIPE_CLOSED, Output, code_of, report

NARROWEST = 20
"""Columns that help and tables need; below, rich does not end."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments after `mahsm`; by default those of the process.

    Returns:
        The exit code: 0; 1 if the command failed; 2 if an argument or a setting is invalid; 130 after Ctrl+C.
        An error is one line on stderr.

    Example:
        >>> from mahsm.cli import main
        >>> main(["version", "--json"])
        {"version": "0.8.0"}
        0
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    _widen()
    try:
        with _stdout_to_stderr() if as_json else nullcontext():
            output = app()(given, exit_on_error=False, print_error=False)
        return _printed(output)
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001  # reported, with its type
        if isinstance(error, KeyboardInterrupt) and arguments is None:
            # The process waits for the threads of rows in progress. Another Ctrl+C ends it at once.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        report(_command(given), error, as_json=as_json)
        if isinstance(error, SystemExit) and arguments is None:
            # A row has ended the process. Tasks that it leaves behind would say so once more, at length.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code_of(error))
        return code_of(error)


def _widen() -> None:
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() else _terminal_width()
    if width < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)


def _terminal_width() -> int:
    """Return the width that rich finds: that of the first standard stream that is a terminal."""
    for descriptor in range(3):
        try:
            # A terminal without a size has 0 columns, for which rich takes 80.
            return os.get_terminal_size(descriptor).columns or NARROWEST
        except OSError:
            continue
    return NARROWEST


@contextmanager
def _stdout_to_stderr() -> Generator[None, None, None]:
    """Send what is printed in the block to stderr: it is not the document.

    The user's code may print, and so may C code and programs that it starts, which know only the descriptor.
    """
    with redirect_stdout(sys.stderr):
        if sys.__stdout__ is None or sys.__stderr__ is None:
            yield  # It is closed, and its descriptor may be that of any other file.
            return
        sys.__stdout__.flush()
        kept = os.dup(1)
        os.dup2(2, 1)
        try:
            yield
        finally:
            sys.__stdout__.flush()
            os.dup2(kept, 1)
            os.close(kept)


def _command(given: Sequence[str]) -> str:
    """Return the name of the command in the arguments; "" if there is none."""
    return next((name for name in (" ".join(given[:2]), *given[:1]) if name in (*COMMANDS, *GROUPS)), "")


def _printed(output: Output | None) -> int:
    """Print what a command returns, and return its exit code; None is that of `--help`."""
    try:
        if output is not None:
            output.print()
        print(end="", flush=True)  # noqa: T201  # also if stdout is closed, and None
    except BrokenPipeError:
        # A pipe to `head`, say. Python flushes stdout at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return 0 if output is None else output.code
