"""`main`: runs a command, and turns errors into exit codes."""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

from cyclopts import CycloptsError

from mahsm.cli._commands import COMMANDS, GROUPS, app
from mahsm.cli._outcome import Output, code_of, report


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
        if isinstance(output, Output):
            output.print()
        sys.stdout.flush()
    except BrokenPipeError:
        return _without_reader()
    except (CycloptsError, KeyboardInterrupt, Exception) as error:  # noqa: BLE001  # reported, with its type
        report(_command(given), error, as_json=as_json)
        return code_of(error)
    return output.code if isinstance(output, Output) else 0


def _command(given: Sequence[str]) -> str:
    """Return the name of the command in the arguments; "" if there is none."""
    return next((name for name in (" ".join(given[:2]), *given[:1]) if name in (*COMMANDS, *GROUPS)), "")


def _without_reader() -> int:
    """Return the exit code after a pipe, such as that to `head`, was closed: 128 + SIGPIPE."""
    # Python flushes stdout at its end, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
