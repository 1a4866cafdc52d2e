from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path

import pytest

from mahsm._context import here


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of settings for the test, which does not exist yet; no keys or models in the environment."""
    folder = tmp_path / "home"
    monkeypatch.setenv("MAHSM_HOME", str(folder))
    for name in ("OPENAI_API_KEY", "MAHSM_MODEL", "MAHSM_API_BASE", "MAHSM_TEMPERATURE", "MAHSM_MAX_TOKENS"):
        monkeypatch.delenv(name, raising=False)
    before = copy_context().get(here._here)
    yield folder
    here._here.set(before)


def write(folder: Path, name: str, text: str | bytes) -> Path:
    """Write a file of settings as a careful user does."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return path
