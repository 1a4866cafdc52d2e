"""`mahsm completion`: a script for your shell."""

from typing import Literal

from mahsm.cli._commands import app
from mahsm.cli._outcome import Json, Output


def completion(shell: Literal["bash", "zsh", "fish"], /, *, json: Json = False) -> Output:
    """Print a script that completes commands and options.

    Args:
        shell: Your shell.
    """
    script = app().generate_completion(shell=shell)
    return Output({"shell": shell, "script": script}, [script.rstrip("\n")], json)
