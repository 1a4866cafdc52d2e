from typing import Any

import numpy as np
import pytest

from mahsm import reduce_edge, vmap
from mahsm.errors import LearnError, ReducerError
from mahsm.learn import confident, no_gain
from mahsm.learn._halting import gain, lead


def until_decided(reducer: Any, values: list[Any]) -> tuple[Any, int]:
    state = reducer.init(len(values))
    for count, value in enumerate(values, 1):
        state = reducer.add(state, value)
        if reducer.decided(state):
            return reducer.result(state), count
    return reducer.result(state), len(values)


def test_the_posterior_is_that_of_beta() -> None:
    draws = np.random.default_rng(0)
    for first, second in ((0, 0), (4, 0), (5, 3), (2, 6)):
        expected = (draws.beta(first + 1, second + 1, 200_000) > 0.5).mean()
        assert lead(first, second) == pytest.approx(expected, abs=0.005)


def test_a_vote_ends_when_its_leader_is_probably_right() -> None:
    assert until_decided(confident(0.95), ["a"] * 15) == ("a", 4)
    assert until_decided(confident(0.95), ["b", *["a"] * 14]) == ("a", 7)
    assert until_decided(confident(0.99), ["a"] * 15) == ("a", 6)
    assert until_decided(confident(0.95, least=9), ["a"] * 15) == ("a", 8)  # cannot be overtaken
    assert until_decided(confident(0.95), ["a", "a"]) == ("a", 2)


def test_a_vote_of_ninety_percent_takes_few_samples_and_errs_no_more() -> None:
    rng = np.random.default_rng(0)
    votes = rng.choice(4, p=[0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3], size=(1000, 15)).tolist()
    found = [until_decided(confident(0.95), row) for row in votes]
    assert np.mean([used for _, used in found]) <= 5.8
    assert np.mean([answer == 0 for answer, _ in found]) >= 0.998


def test_votes_have_keys_and_are_normalized() -> None:
    votes = [{"city": text} for text in ("Paris.", "paris", " PARIS", "Paris", "Rome")]
    assert until_decided(confident(key="city", normalize=True), votes) == ("Paris.", 3)
    with pytest.raises(ReducerError, match="no key 'town'"):
        until_decided(confident(key="town"), votes)


def test_a_fan_out_ends_early() -> None:
    edge = vmap(lambda state: "Paris", sample=15, out_key="cities", stop_when=confident(), max_concurrency=1)
    assert edge.invoke({}) == {"cities": ["Paris"] * 4}
    reduced = reduce_edge(input_key="cities", output_key="city", reducer=confident())
    assert reduced.invoke({"cities": ["Rome", "Paris", "Paris"]}) == {"city": "Paris"}


def test_an_empty_list_has_no_winner() -> None:
    for reducer in (confident(), no_gain(0.1)):
        with pytest.raises(ReducerError, match="there are no values to choose from"):
            reducer.result(reducer.init(0))


def test_the_expected_gain_is_that_of_draws() -> None:
    draws = np.random.default_rng(0).normal(0.4, 0.2, 400_000)
    assert gain(0.7, 0.4, 0.2) == pytest.approx(np.maximum(draws - 0.7, 0).mean(), rel=0.05)
    assert gain(0.7, 0.4, 0.0) == 0.0


def test_best_of_n_ends_when_a_sample_costs_more_than_it_gains() -> None:
    scores = [0.5, 0.7, 0.6, 0.65, 0.62, 0.64, 0.61, 0.66]
    assert until_decided(no_gain(0.1), scores) == (0.7, 4)
    assert until_decided(no_gain(1e-9), scores) == (0.7, 8)
    cheap, dear = (until_decided(no_gain(price), scores)[1] for price in (0.012, 0.03))
    assert dear <= cheap
    assert until_decided(no_gain(0.5, least=2), scores) == (0.7, 2)
    assert until_decided(no_gain(0.01), [0.5] * 9) == (0.5, 4)


def test_the_best_value_is_returned() -> None:
    answers = [{"score": score} for score in (0.1, 0.9, 0.3, 0.2)]
    assert until_decided(no_gain(5.0, key="score"), answers) == ({"score": 0.9}, 4)
    assert until_decided(no_gain(5.0, key=lambda each: -each["score"]), answers) == ({"score": 0.1}, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: confident(1.0), r"confident: level=1.0; expected a probability in \(0.5, 1\)"),
        (lambda: confident("high"), "level='high'"),  # type: ignore[arg-type]
        (lambda: confident(least=0), "confident: least=0; expected an integer >= 1"),
        (lambda: no_gain(0), "no_gain: price=0; expected a number > 0"),
        (lambda: no_gain(0.1, least=1), "no_gain: least=1; expected an integer >= 2"),
        (lambda: until_decided(no_gain(0.1), ["good"]), "the score of 'good' is 'good'; expected a number"),
        (lambda: until_decided(no_gain(0.1, key="score"), [3]), "the score of 3 is None"),
    ],
)
def test_arguments_are_checked(make: Any, message: str) -> None:
    with pytest.raises(LearnError, match=message):
        make()
