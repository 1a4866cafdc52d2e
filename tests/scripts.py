"""Runs scripts, each in a process of its own that has the large packages already.

Most of the time of a short script is the import of DSPy and LangChain. A server imports them once, and forks
for each script. It imports neither mahsm, which is as new to each script as if it were run by itself, nor
JAX, whose threads do not live on in a fork.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "dspy",
        "langchain.agents",
        "langchain_openai",
        "langfuse",
        "langgraph.checkpoint.sqlite.aio",
        "langgraph.graph",
    ]
)


def start(script: Path, *arguments: str, folder: Path | None = None) -> BaseProcess:
    """Start a script as `python script arguments` does. Its output goes into files of the folder, if one is
    given: standard output into `1`, standard error into `2`.
    """
    process = _FORKS.Process(
        target=_run_as_main, args=([str(script), *arguments], folder and str(folder)), daemon=False
    )
    process.start()
    return process


def run(
    script: Path, folder: Path, timeout: float, arguments: Sequence[str] = ()
) -> tuple[int | None, str, str]:
    """Run a script to its end.

    Returns:
        Its exit status, None if it did not end in time; then its standard output and standard error.
    """
    process = start(script, *arguments, folder=folder)
    process.join(timeout)
    status = process.exitcode
    process.kill()
    process.join()
    return status, (folder / "1").read_text(), (folder / "2").read_text()


def _run_as_main(command: list[str], folder: str | None) -> None:
    for stream in (1, 2) if folder else ():
        os.dup2(os.open(os.path.join(folder or "", str(stream)), os.O_WRONLY | os.O_CREAT), stream)
    sys.argv[:] = command
    sys.path.insert(0, os.path.dirname(command[0]))
    try:
        runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which a fork ends without
