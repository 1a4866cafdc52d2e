"""Each storm, small; `python -m tests.storms` runs them at full strength."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.storms.storms import STORMS

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", STORMS)
def test_storm(name: str) -> None:
    command = [sys.executable, "-X", "dev", "-m", "tests.storms", name, str(STORMS[name].small)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
