"""A Redis that a test kills and starts again."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest


class RedisProcess:
    """A Redis on a socket of its own; with a password, on a port of loopback."""

    def __init__(self, folder: Path, password: str = "", options: tuple[str, ...] = ()) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("no redis-server; Debian has it in the package redis-server")
        self._process: subprocess.Popen[str] | None = None
        self.port = free_port()
        path = folder / "socket"
        self.url = f"redis://:{password}@127.0.0.1:{self.port}" if password else f"unix://{path}"
        place = ["--port", str(self.port)] if password else ["--port", "0", "--unixsocket", str(path)]
        secret = ["--requirepass", password] if password else []
        self._command = [program, *place, *secret, "--save", "", "--appendonly", "no", *options]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "ready to accept" in line.lower():
                return
        raise RuntimeError("Redis has not started")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def stop(self) -> None:
        """Let it hang, with its connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def redis_process(folder: Path, password: str = "", options: tuple[str, ...] = ()) -> Generator[RedisProcess]:
    """Yield a Redis that ends with the block."""
    server = RedisProcess(folder, password, options)
    try:
        yield server
    finally:
        server.kill()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(happened: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something has happened elsewhere that tells nobody."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.002)
