"""A shell for the command, in this process, in a process of its own, and at a terminal."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from subprocess import run
from typing import Any

import pexpect
import pytest

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


@pytest.fixture
def terminal() -> Iterator[Callable[..., Any]]:
    """Starts the command at a terminal of its own."""
    started: list[Any] = []

    def start(*arguments: str) -> Any:
        child = pexpect.spawn(
            PROCESS[0], [*PROCESS[1:], *arguments], timeout=120, encoding="utf-8", env=dict(os.environ)
        )
        child.logfile_read = StringIO()
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)


def shown(child: Any) -> str:
    """All that a terminal has shown, once the command has ended."""
    child.expect(pexpect.EOF)
    child.close()
    return child.logfile_read.getvalue().replace("\r\n", "\n")
