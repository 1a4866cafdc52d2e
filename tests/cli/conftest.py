"""A shell for the command, in this process, in a process of its own, and at a terminal."""

import json
import os
import pty
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from subprocess import Popen, run
from typing import Any

import pexpect
import pytest
from pexpect.fdpexpect import fdspawn

from mahsm import cli
from tests.context.conftest import home as home

PROCESS = [sys.executable, "-m", "mahsm"]


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line on stderr."""
        (line,) = self.err.splitlines()
        return line


Command = Callable[..., Ran]


@pytest.fixture
def mahsm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in this process, with `typed` on its standard input."""

    def ran(*arguments: str, typed: str = "") -> Ran:
        monkeypatch.setattr(sys, "stdin", StringIO(typed))
        capsys.readouterr()
        return Ran(cli.main(arguments), *capsys.readouterr())

    return ran


def process(*arguments: str, typed: str = "", folder: Path | None = None) -> Ran:
    """Run the command in a process of its own."""
    done = run([*PROCESS, *arguments], input=typed, capture_output=True, text=True, cwd=folder, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


CONTROL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where a shell began the tests in the background
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes standard input the terminal that Ctrl+C and questions for keys come from."""


class Terminal:
    """The command at a terminal of its own.

    It is started as `subprocess` does it. A fork, as of `pexpect.spawn`, is an error where JAX has threads.
    """

    def __init__(self, *arguments: str, folder: Path | None = None) -> None:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-c", CONTROL, *PROCESS, *arguments]
        self.process = Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, cwd=folder
        )
        os.close(theirs)
        self._shown = StringIO()
        self._child = fdspawn(ours, timeout=120, encoding="utf-8")
        self._child.logfile_read = self._shown

    def expect(self, text: str) -> None:
        """Wait until the terminal shows a text."""
        self._child.expect_exact(text)

    def type(self, text: str) -> None:
        """Type a line."""
        self._child.send(f"{text}\n")

    def press(self, control: str) -> None:
        """Press Ctrl and a letter."""
        self._child.send(chr(ord(control) - ord("a") + 1))

    def end(self) -> tuple[int, str]:
        """Wait for the end; return the exit code, and all that the terminal has shown."""
        self._child.expect(pexpect.EOF)
        return self.process.wait(), self._shown.getvalue().replace("\r\n", "\n")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._child.close()


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Starts the command at a terminal of its own."""
    started: list[Terminal] = []

    def start(*arguments: str, folder: Path | None = None) -> Terminal:
        started.append(Terminal(*arguments, folder=folder))
        return started[-1]

    yield start
    for each in started:
        each.close()
