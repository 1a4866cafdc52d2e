"""The commands, and what `mahsm --help` says about them.

Each command is a function in a file of its own, which is imported when the command is run, so `mahsm --help`
loads none of LangGraph, DSPy and JAX.
"""

import inspect

from cyclopts import App

import mahsm

COMMANDS = {
    "setup": (
        "mahsm.cli._setup:setup",
        """Set up a provider: its key, the default model, and one call to try them.

        At a terminal, what is missing is asked for; the key is not shown. Elsewhere, pipe the key in:
        `mahsm setup --provider openai --model openai/gpt-4o-mini < file`. A key is never an argument, which
        other users of the machine could see.""",
    ),
    "configure get": ("mahsm.cli._configure:get", "Print a setting; credentials are hidden."),
    "configure set": (
        "mahsm.cli._configure:put",
        "Write a setting; a credential is asked for, or read from standard input.",
    ),
    "configure list": (
        "mahsm.cli._configure:listed",
        "Print all settings with where they are from; credentials are hidden.",
    ),
    "configure path": ("mahsm.cli._configure:path", "Print the folder of the files."),
    "configure show": (
        "mahsm.cli._configure:show",
        "Print a section of the settings; credentials are hidden.",
    ),
    "configure migrate": (
        "mahsm.cli._configure:migrate",
        "Copy settings and credentials of Ember into the files.",
    ),
    "models": (
        "mahsm.cli._models:models",
        """List known models, with prices and where their key is from.

        Other models of a known provider can be called, too. Prices are US dollars for a million tokens.""",
    ),
    "test": ("mahsm.cli._test:test", "Call a model once: its answer, time, tokens and cost."),
    "doctor": (
        "mahsm.cli._doctor:doctor",
        """Check what is installed and set up, and tell how to get the rest.

        The exit code is 1 if something that is set up does not work. Credentials are shown by name only.""",
    ),
    "draw": (
        "mahsm.cli._draw:draw",
        """Draw a graph or an edge, with the graphs inside.

        Nothing is sent anywhere. PNG needs matplotlib: `pip install 'mahsm[draw]'`.""",
    ),
    "run": (
        "mahsm.cli._run:run",
        """Call a graph, edge, node, operator or function for each row of a file; results go to a folder.

        Such as `mahsm run app:graph -i rows.jsonl -o rated/`. After a kill, an error or Ctrl+C, the same
        command goes on where the folder is. A row is the state that the target sees; the whole of it is
        there as `item`, too. Rows that fail are in `errors.jsonl`.""",
    ),
    "usage": (
        "mahsm.cli._usage:usage",
        """Show what runs cost, by model and edge.

        The records are in the folders of runs, and kept up to date, so one that was killed counts.""",
    ),
    "demo": (
        "mahsm.cli._demo:demo",
        "Rank documents by how well they answer a question, with a vmap and a reduce edge.",
    ),
    "completion": (
        "mahsm.cli._completion:completion",
        """Print a script that completes commands and options in your shell.

        - bash: `source <(mahsm completion bash)` in `~/.bashrc`
        - fish: `mahsm completion fish | source` in `config.fish`
        - zsh: once, `mahsm completion zsh > FOLDER/_cyclopts_mahsm`, in a folder of `$fpath`""",
    ),
    "version": ("mahsm.cli._version:version", "Print the version."),
}
"""For each command, its function, and its help: the first paragraph is shown among the other commands."""

GROUPS = {"configure": "Settings and credentials in the files of `~/.mahsm`."}
"""For the first word of commands that have two, their help."""


def app() -> App:
    """Return the commands, none of which is imported yet."""
    made = App(
        name="mahsm",
        help="Special edges for LangGraph.",
        version=f"mahsm {mahsm.__version__}",
        help_format="markdown",
        version_format="plaintext",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    groups = {"": made}
    for command, (path, text) in COMMANDS.items():
        group, _, name = command.rpartition(" ")
        if group not in groups:
            groups[group] = App(name=group, help=GROUPS[group])
            made.command(groups[group])
        groups[group].command(path, name=name, help=inspect.cleandoc(text))
    return made
