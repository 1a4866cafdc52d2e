"""Bars of DSPy's that begin and end in several threads at the same time."""

import gc
import sys
import threading
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import dspy
import pytest
import tqdm

from mahsm import vmap
from mahsm._model_calls.dspy.bars import shield
from tests.helpers import MODES, run_edge


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Threads take turns after a microsecond, so that what can go wrong between two steps does."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("quick_switches")
@pytest.mark.parametrize("mode", MODES)
def test_parallel_of_dspy_inside_of_items(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tqdm.tqdm, "_instances", WeakSet())  # as it was before any edge ran

    def target(state: dict[str, Any]) -> list[int]:
        number = state["item"]
        if number % 20 == 0:
            gc.collect()
        runs = dspy.Parallel(num_threads=1, disable_progress_bar=number % 4 != 0)
        return [runs([(lambda value: value, (value,))])[0] for value in range(20)]

    edge = vmap(target, batch_key="xs", out_key="ys", max_concurrency=16)
    assert run_edge(edge, range(64), mode) == [list(range(20))] * 64


def test_bars_keep_their_places() -> None:
    shield()
    with tqdm.tqdm(total=1, file=sys.stderr) as outer, tqdm.tqdm(total=1, file=sys.stderr) as inner:
        assert (outer.pos, inner.pos) == (0, 1)
        assert {outer, inner} <= set(tqdm.tqdm._instances)
        tqdm.tqdm._instances.clear()
        assert len(tqdm.tqdm._instances) == 0


def test_the_set_is_emptied_only_when_tqdm_is_done_with_it() -> None:
    shield()
    bars = tqdm.tqdm._instances
    with tqdm.tqdm(total=1) as bar:
        emptied = threading.Thread(target=bars.clear)
        with tqdm.tqdm.get_lock():
            emptied.start()
            emptied.join(0.05)
            assert bar in bars
        emptied.join()
        assert bar not in bars
