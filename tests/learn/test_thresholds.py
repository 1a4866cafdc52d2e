"""Thresholds of a cascade are those that a plain loop over all of them finds."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mahsm.errors import LearnError
from mahsm.learn import thresholds


def outcome(scores: Any, qualities: Any, prices: Any, least: Any) -> tuple[float, float]:
    """What a cascade does, question by question."""
    cost = quality = 0.0
    for row, good in zip(scores, qualities, strict=True):
        for place, price in enumerate(prices):
            cost += price
            if place == len(prices) - 1 or row[place] >= least[place]:
                quality += good[place]
                break
    return cost / len(scores), quality / len(scores)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 3), st.integers(1, 8))
def test_no_other_thresholds_are_better(data: st.DataObject, targets: int, rows: int) -> None:
    numbers = st.integers(0, 4).map(lambda number: number / 4)
    scores = data.draw(
        st.lists(st.lists(numbers, min_size=targets - 1, max_size=targets - 1), min_size=rows, max_size=rows)
    )
    good = data.draw(
        st.lists(
            st.lists(st.integers(0, 1), min_size=targets, max_size=targets), min_size=rows, max_size=rows
        )
    )
    prices = [1.0, 3.0, 10.0][:targets]
    all_of_them = [
        outcome(scores, good, prices, least)
        for least in itertools.product([0.0, 0.25, 0.5, 0.75, 1.0, 2.0], repeat=targets - 1)
    ]
    aim = data.draw(st.sampled_from([quality for _, quality in all_of_them]))
    found = thresholds(scores, good, prices, quality=aim)
    assert outcome(scores, good, prices, found.thresholds) == pytest.approx((found.cost, found.quality))
    assert found.cost == pytest.approx(min(cost for cost, quality in all_of_them if quality >= aim))
    budget = data.draw(st.sampled_from([cost for cost, _ in all_of_them])) + 1e-9
    best = thresholds(scores, good, prices, budget=budget)
    assert best.quality == pytest.approx(max(quality for cost, quality in all_of_them if cost <= budget))


def test_half_the_cost_of_the_strong_model_at_its_quality() -> None:
    """The cheap model is good at easy questions, and its score says roughly which these are."""
    rng = np.random.default_rng(0)
    hard, prices = rng.random(4000), [1.0, 10.0]
    cheap = rng.random(4000) < np.where(hard < 0.65, 0.98, 0.3)
    qualities = np.column_stack([cheap, rng.random(4000) < 0.95])
    scores = (1 - hard + 0.05 * rng.standard_normal(4000))[:, None]
    seen, held_out = slice(0, 2000), slice(2000, 4000)
    found = thresholds(scores[seen], qualities[seen], prices, quality=0.98 * 0.95)
    cost, quality = outcome(scores[held_out], qualities[held_out], prices, found.thresholds)
    assert cost < 5.0
    assert quality > 0.97 * 0.95


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"scores": [[0.5, 0.5]]}, "shapes"),
        ({"prices": [1.0]}, "shapes"),
        ({"qualities": [["x", 1]]}, "shapes"),
        ({"scores": [[float("nan")]]}, "finite"),
        ({"budget": 1.0}, "one of the two"),
        ({"quality": None}, "one of the two"),
        ({"quality": 1.5}, "at most 1"),
        ({"quality": None, "budget": 0.5}, "at least 1"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], why: str) -> None:
    arguments = {"scores": [[0.5]], "qualities": [[1, 1]], "prices": [1.0, 2.0], "quality": 1.0, **changes}
    with pytest.raises(LearnError, match=why):
        thresholds(**arguments)
