import itertools
import os
import threading
import time
from collections.abc import Iterator

import pytest

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # read once, when DSPy first prices a call
os.environ["DSPY_CACHEDIR"] = os.path.join(os.path.dirname(__file__), os.pardir, ".pytest_cache", "dspy")


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    """After the test, every thread that an edge run started has ended."""
    yield
    deadline = time.monotonic() + 5
    while left := [thread for thread in threading.enumerate() if thread.name.startswith("mahsm-item")]:
        assert time.monotonic() < deadline, left
        left[0].join(timeout=0.1)


_numbers = itertools.count()


@pytest.fixture
def name() -> Iterator[str]:
    """A provider that no other test knows."""
    from mahsm import limits

    provider = f"provider{next(_numbers)}"
    yield provider
    limits.forget(provider)
