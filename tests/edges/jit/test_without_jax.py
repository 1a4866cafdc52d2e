"""The package in an environment that really lacks JAX."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LACKING = ("jax", "jaxlib", "equinox", "optax", "jaxtyping")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed here, but for JAX and what needs it."""
    folder = tmp_path_factory.mktemp("site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if entry.name.split("-")[0].lower() not in LACKING and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


def run_without_jax(packages: Path, *arguments: str) -> str:
    """Run Python with these packages only (`-S` leaves out the environment's own)."""
    environment = {**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}", "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-S", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=110, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_edges_without_jax(packages: Path) -> None:
    assert run_without_jax(packages, str(Path(__file__).with_name("without_jax_worker.py"))) == "fine\n"
