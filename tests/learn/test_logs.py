from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mahsm.errors import LearnError
from mahsm.learn import Router, logs
from mahsm.learn.logs import Logged


def test_choices_are_written_and_read(tmp_path: Path) -> None:
    router = Router(["a", "b"], min_explore=0.5, seed=0)
    choices = router.route_all(np.eye(3))
    rows = [choice.logged(reward) for choice, reward in zip(choices, (1, 0.5, None), strict=True)]
    for row in rows:
        logs.write(tmp_path / "log.jsonl", [row])
    found = logs.read(tmp_path / "log.jsonl")
    assert [(row.arm, row.propensity, row.reward, row.id) for row in found] == [
        (row.arm, row.propensity, row.reward, row.id) for row in rows
    ]
    assert found[0].features == [1.0, 0.0, 0.0]


def test_arrays_are_written(tmp_path: Path) -> None:
    logs.write(tmp_path / "log", [Logged(np.arange(2.0), "a", np.float64(0.5), np.float32(1))])  # type: ignore[arg-type]
    assert logs.read(tmp_path / "log") == [Logged([0.0, 1.0], "a", 0.5, 1.0)]


def test_a_reward_may_have_a_row_of_its_own() -> None:
    found = logs.read(
        [
            {"id": "1", "arm": "a", "propensity": 0.5, "other": 3},
            {"id": "2", "arm": "b"},
            {"id": "1", "reward": True},
        ]
    )
    assert found == [Logged(None, "a", 0.5, 1.0, "1"), Logged(None, "b", None, None, "2")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([3], "row 0 is 3; expected a dict with 'arm'"),
        ([{"reward": 1.0}], "has no 'arm'"),
        ([{"arm": "a", "propensity": 0.0}], r"row 0: propensity=0.0; expected a number in \(0, 1\]"),
        ([{"arm": "a", "propensity": 1.5}], "propensity=1.5"),
        ([{"arm": "a", "reward": "good"}], "reward='good'; expected a finite number"),
        ([{"arm": "a", "reward": float("nan")}], "reward=nan"),
        (
            [{"id": "1", "arm": "a", "reward": 1}, {"id": "1", "reward": 2}],
            "row 1: the id '1' has a second reward",
        ),
    ],
)
def test_rows_are_checked(rows: Any, message: str) -> None:
    with pytest.raises(LearnError, match=message):
        logs.read(rows)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"arm": "a"}\n\nno\n')
    with pytest.raises(LearnError, match=r"log, line 3 is 'no\\n'; expected a JSON object"):
        logs.read(tmp_path / "log")


def test_what_is_not_json_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(LearnError, match="cannot be written as JSON"):
        logs.write(tmp_path / "log", [Logged(object(), "a")])
    assert not (tmp_path / "log").exists()
