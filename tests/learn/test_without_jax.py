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
edge = learn.cascade({"a": lambda state: {"y": 1}, "b": lambda state: {"y": 2}}, accept=lambda state: 0)
print(edge.invoke({})["y"])
for name in ("Router", "attend", "train"):
    try:
        getattr(learn, name)
    except ImportError as error:
        print(error)
"""


@pytest.mark.slow
def test_all_but_routers_and_votes_work_without_jax() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True
    ).stdout
    first, second, *errors = printed.splitlines()
    assert (first, second) == ("1.0 3", "2")
    assert len(errors) == 3
    assert all(error.endswith("pip install 'mahsm[jax]'") for error in errors)
