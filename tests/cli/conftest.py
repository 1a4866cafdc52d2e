"""A shell for the command, in this process, in a process of its own, and at a terminal."""

import json
import os
import pty
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from subprocess import DEVNULL, Popen, run
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


_AT_TERMINAL = """
import os, sys
terminal = os.open(sys.argv[1], os.O_RDWR)  # that of this session from now on
for number in range(3):
    os.dup2(terminal, number)
os.execv(sys.executable, [sys.executable, "-m", "mahsm", *sys.argv[2:]])
"""


class Terminal(fdspawn):
    """The command at a terminal of its own.

    Other than `pexpect.spawn`, it forks no process that has threads of JAX.
    """

    def __init__(self, *arguments: str, folder: Path | None = None) -> None:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-c", _AT_TERMINAL, os.ttyname(theirs), *arguments]
        self._process = Popen(command, start_new_session=True, cwd=folder, stdin=DEVNULL)
        super().__init__(ours, timeout=120, encoding="utf-8")
        self._theirs = theirs
        self.logfile_read = StringIO()

    def sendintr(self) -> None:
        """Type Ctrl-C."""
        self.send("\x03")

    def sendeof(self) -> None:
        """Type Ctrl-D."""
        self.send("\x04")

    def shown(self) -> str:
        """All that the terminal has shown, once the command has ended."""
        os.close(self._theirs)
        self._theirs = -1
        self.expect(pexpect.EOF)
        self.exitstatus = self._process.wait(120)
        return str(self.logfile_read.getvalue()).replace("\r\n", "\n")

    def end(self) -> None:
        """Close it, whatever runs in it."""
        self._process.kill()
        self._process.wait()
        if self._theirs >= 0:
            os.close(self._theirs)
        self.close()


@pytest.fixture
def terminal() -> Iterator[Callable[..., Any]]:
    """Starts the command at a terminal of its own."""
    started: list[Terminal] = []

    def start(*arguments: str, folder: Path | None = None) -> Terminal:
        started.append(Terminal(*arguments, folder=folder))
        return started[-1]

    yield start
    for child in started:
        child.end()


def shown(child: Any) -> str:
    """All that a terminal has shown, once the command has ended."""
    return child.shown()
