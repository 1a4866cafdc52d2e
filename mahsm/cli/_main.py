"""`main`: runs a command, and turns errors into exit codes."""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

from mahsm.cli._commands import COMMANDS, GROUPS, app
from mahsm.cli._outcome import PIPE_CLOSED, Output, code_of, report


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
    try:
        # What is printed on the way, by code of the user's too, is not the document.
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            output = app()(given, exit_on_error=False, print_error=False)
        return _printed(output)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  # reported, with its type
        report(_command(given), error, as_json=as_json)
        return code_of(error)


def _command(given: Sequence[str]) -> str:
    """Return the name of the command in the arguments; "" if there is none."""
    return next((name for name in (" ".join(given[:2]), *given[:1]) if name in (*COMMANDS, *GROUPS)), "")


def _printed(output: Output | None) -> int:
    """Print what a command returns, and return its exit code; None is that of `--help`."""
    try:
        if output is not None:
            output.print()
        sys.stdout.flush()
    except BrokenPipeError:
        # A pipe to `head`, say. Python flushes stdout at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return 0 if output is None else output.code
