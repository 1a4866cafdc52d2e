"""`jit_edge` on several devices."""

import subprocess
import sys


def test_results_on_a_mesh_of_four_devices_are_equal() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.devices_worker"], capture_output=True, text=True, check=False, timeout=110
    )
    assert (done.returncode, done.stdout) == (0, "{CpuDevice(id=2)}\n"), done.stderr
