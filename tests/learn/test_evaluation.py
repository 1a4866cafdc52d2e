from typing import Any

import numpy as np
import pytest

from mahsm.errors import LearnError
from mahsm.learn import FewEffectiveSamples, Router, evaluate
from mahsm.learn.logs import Logged

ARMS = ["a", "b"]


def log(rows: int, seed: int = 0) -> list[Logged]:
    """Arm b is right for x > 0 and a for others, in nine of ten rows; b is logged in one of four."""
    rng = np.random.default_rng(seed)
    found = []
    for x in rng.uniform(-1, 1, rows):
        arm = "b" if rng.random() < 0.25 else "a"
        right = float(((x > 0) == (arm == "b")) == (rng.random() < 0.9))
        found.append(Logged([float(x)], arm, 0.25 if arm == "b" else 0.75, right))
    return found


def good(features: Any) -> str:
    return "b" if features[0] > 0 else "a"


def test_all_estimates_but_the_direct_one_are_near_the_truth() -> None:
    found = evaluate(log(4000), good)
    for each in (found.doubly_robust, found.ips, found.snips):
        assert each.value == pytest.approx(0.9, abs=0.08)
        assert each.low < each.value < each.high
    assert found.doubly_robust.high - found.doubly_robust.low < found.ips.high - found.ips.low
    assert found.rows == 4000
    assert 1000 < found.effective < 4000


def test_the_policy_of_the_log_has_all_rows_as_effective_samples() -> None:
    rows = log(500)
    found = evaluate(rows, lambda features: {"a": 0.75, "b": 0.25})
    assert found.effective == pytest.approx(500)
    assert found.ips.value == pytest.approx(np.mean([row.reward for row in rows]))


def test_policies_are_arms_functions_and_routers() -> None:
    rows = log(1000)
    assert evaluate(rows, "a").ips == evaluate(rows, lambda features: "a").ips
    router = Router(ARMS, dims=1, min_explore=0.1)
    router.fit(rows)
    best, own = evaluate(rows, router.best), evaluate(rows, router.probabilities)
    assert best.doubly_robust.value > own.doubly_robust.value > evaluate(rows, "a").doubly_robust.value


def test_prices_are_subtracted() -> None:
    rows = log(1000)
    free, dear = evaluate(rows, "a"), evaluate(rows, "a", cost={"a": 0.25, "b": 0.0})
    assert free.snips.value - dear.snips.value == pytest.approx(0.25)


def test_the_interval_covers_the_truth() -> None:
    covered = 0
    for seed in range(100):
        found = evaluate(log(500, seed), good).doubly_robust
        covered += found.low <= 0.9 <= found.high
    assert 88 <= covered <= 100


def test_it_prints_all_estimates() -> None:
    lines = str(evaluate(log(1000), good)).splitlines()
    assert [line.split("0.")[0].strip() for line in lines[:4]] == ["doubly robust", "ips", "snips", "direct"]
    assert lines[4].endswith("effective of 1000 rows")


def test_a_log_without_propensities_is_refused() -> None:
    rows = [*log(50), Logged([0.0], "a", None, 1.0)]
    with pytest.raises(LearnError, match="1 of 51 rows have no propensity; expected the probability"):
        evaluate(rows, good)


def test_few_effective_samples_are_warned_about() -> None:
    with pytest.warns(FewEffectiveSamples, match=r"effective samples of 60 rows; expected at least 100"):
        evaluate(log(60), good)


def test_rows_without_a_reward_are_left_out() -> None:
    rows = log(500)
    more = [*rows, Logged([0.0], "a", 0.75, None)]
    assert evaluate(more, good) == evaluate(rows, good)


def test_a_policy_that_never_agrees_has_no_snips() -> None:
    rows = [Logged([float(x)], "ab"[x % 2], 0.5, 1.0) for x in range(20)]
    with pytest.warns(FewEffectiveSamples, match="0 effective"):
        found = evaluate(rows, lambda features: "ba"[int(features[0]) % 2])
    assert np.isnan(found.snips.value)
    assert found.ips.value == 0.0


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("c", "the policy chooses 'c'; expected an arm of the log, one of 'a', 'b'"),
        (lambda features: {"a": 0.5}, "probabilities by arm whose sum is 1"),
        (lambda features: {"a": 1.5, "b": -0.5}, "probabilities by arm"),
        (lambda features: None, "the policy chooses None"),
    ],
)
def test_policies_are_checked(policy: Any, message: str) -> None:
    with pytest.raises(LearnError, match=message):
        evaluate(log(200), policy)


def test_probability_zero_of_an_arm_that_is_not_in_the_log_is_fine() -> None:
    rows = log(500)
    assert evaluate(rows, lambda features: {"a": 1.0, "c": 0.0}).ips == evaluate(rows, "a").ips


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (log(5), {}, "the log has 5 rows with a reward; expected at least 10"),
        ([*log(20), Logged([1.0, 2.0], "a", 0.5, 1.0)], {}, "rows have 1 to 2 features"),
        ([*log(20), Logged("text", "a", 0.5, 1.0)], {}, "the features are 'text'"),
        (log(20), {"cost": {"a": 1.0}}, "the price of 'b' is None"),
    ],
)
def test_logs_are_checked(rows: Any, options: Any, message: str) -> None:
    with pytest.raises(LearnError, match=message):
        evaluate(rows, good, **options)
