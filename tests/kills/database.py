"""A PostgreSQL server of our own, on a socket in a directory of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WHERE = Path("/usr/lib/postgresql")
"""Where Debian puts its versions."""


def programs() -> Path | None:
    """The directory with `initdb` and `postgres`, or None if they are not installed."""
    found = [
        *sorted(WHERE.glob("*/bin/postgres"), reverse=True),
        *(Path(path) for path in [shutil.which("postgres")] if path),
    ]
    return found[0].parent if found else None


def _user() -> str | None:
    """Who runs it: not root, which it refuses."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


@contextmanager
def postgres() -> Iterator[str]:
    """Start it; how to connect to it.

    Raises:
        FileNotFoundError: if it is not installed.
    """
    where = programs()
    if where is None:
        raise FileNotFoundError("no PostgreSQL; Debian has it in the package postgresql")
    user = _user()
    directory = tempfile.mkdtemp(prefix="mahsm-pg")
    if user is not None:
        shutil.chown(directory, user)
    data = f"{directory}/data"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": directory, "user": user}
    server: subprocess.Popen[bytes] | None = None
    try:
        subprocess.run(
            [where / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"], check=True, **quiet
        )
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={directory}", "-c", "fsync=off"]
        server = subprocess.Popen([where / "postgres", "-D", data, *options], **quiet)
        address = ["-h", directory, "-U", "postgres"]
        for _ in range(300):
            if (
                subprocess.run([where / "pg_isready", *address, "-t", "1"], check=False, **quiet).returncode
                == 0
            ):
                break
            try:
                server.wait(0.1)
                raise RuntimeError(f"postgres has ended with {server.returncode}")
            except subprocess.TimeoutExpired:
                continue
        yield f"host={directory} user=postgres dbname=postgres"
    finally:
        if server is not None:
            server.terminate()
            server.wait()
        shutil.rmtree(directory, ignore_errors=True)
