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
from pathlib import Path

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["dspy", "langchain.agents", "langchain_openai", "langfuse", "langgraph.graph"])


def run(script: Path, folder: Path, timeout: float) -> tuple[int | None, str, str]:
    """Run a script as `python script` does, with files for its output in the folder.

    Returns:
        Its exit status, None if it did not end in time; then its standard output and standard error.
    """
    process = _FORKS.Process(target=_run_as_main, args=(str(script), str(folder)))
    process.start()
    process.join(timeout)
    status = process.exitcode
    process.kill()
    process.join()
    return status, (folder / "1").read_text(), (folder / "2").read_text()


def _run_as_main(script: str, folder: str) -> None:
    for stream in (1, 2):
        os.dup2(os.open(os.path.join(folder, str(stream)), os.O_WRONLY | os.O_CREAT), stream)
    sys.argv[:] = [script]
    sys.path.insert(0, os.path.dirname(script))
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which a fork ends without
