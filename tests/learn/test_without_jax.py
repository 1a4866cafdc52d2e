import subprocess
import sys

import pytest

SCRIPT = """
import sys
for name in ("jax", "jaxlib", "equinox"):
    sys.modules[name] = None
from mahsm import learn
rows = [learn.logs.Logged([number % 2], "ab"[number % 2], 0.5, 1.0) for number in range(400)]
print(learn.evaluate(rows, "a").ips.value, learn.confident().init(3).left)
try:
    learn.Router
except ImportError as error:
    print(error)
"""


@pytest.mark.slow
def test_all_but_the_router_work_without_jax() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True
    ).stdout
    first, second = printed.splitlines()
    assert first == "1.0 3"
    assert second.endswith("pip install 'mahsm[jax]'")
