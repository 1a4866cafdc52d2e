"""`main`: the commands, put together.

Each command is a function in a file of its own, which is imported when the command is run, so `mahsm --help`
loads none of LangGraph, DSPy and JAX.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

from cyclopts import App, CycloptsError, Parameter

import mahsm
from mahsm.cli._outcome import Output, code_of, report

COMMANDS = {
    "setup": (
        "mahsm.cli._setup:setup",
        "Set up a provider: its key, the default model, and one call to try them.",
    ),
    "configure": ("mahsm.cli._configure:configure", "Settings and credentials in the files of `~/.mahsm`."),
    "models": ("mahsm.cli._models:models", "List known models, with prices and whether their key is there."),
    "test": ("mahsm.cli._test:test", "Call a model once: its answer, time, tokens and cost."),
    "doctor": (
        "mahsm.cli._doctor:doctor",
        "Check what is installed and set up, and tell how to get the rest.",
    ),
    "draw": ("mahsm.cli._draw:draw", "Draw a graph or an edge, with the graphs inside."),
    "run": (
        "mahsm.cli._run:run",
        "Call a graph, edge, node, operator or function for each row of a file; results go to a folder.",
    ),
    "usage": ("mahsm.cli._usage:usage", "Show what runs cost, by model and edge."),
    "demo": (
        "mahsm.cli._demo:demo",
        "Rank documents by how well they answer a question, with a vmap and a reduce edge.",
    ),
    "version": ("mahsm.cli._version:version", "Print the version."),
}
"""For each command, its function and its help."""


def app() -> App:
    """Return the commands, none of which is imported yet."""
    made = App(
        name="mahsm",
        help="Special edges for LangGraph.",
        version=f"mahsm {mahsm.__version__}",
        help_format="markdown",
        version_format="plaintext",
        default_parameter=Parameter(negative=()),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, (path, text) in COMMANDS.items():
        made.command(path, name=name, help=text)
    made.register_install_completion_command(help="Install completion for your shell.")
    return made


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
    return given[0] if given and given[0] in COMMANDS else ""


def _without_reader() -> int:
    """Return the exit code after a pipe, such as that to `head`, was closed: 128 + SIGPIPE."""
    # Python flushes stdout at its end, and would complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
