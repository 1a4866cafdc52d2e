"""`attend`: a plain vote at first, whose weights are learned."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mahsm import parallel, reduce_edge, vmap
from mahsm.errors import LearnError, ReducerError
from mahsm.learn import Attend, attend
from mahsm.operators import load, save
from mahsm.reducers import majority_vote
from tests.helpers import MODES, run

NAMES = ["a", "b", "c"]
answers = st.sampled_from(["x", "y", "z"])
votes = st.lists(st.lists(st.none() | answers, min_size=3, max_size=3), max_size=12)


def rows_of(drawn: list[list[Any]]) -> list[dict[str, Any]]:
    return [{"answers": row, "right": "x"} for row in drawn]


@given(
    st.lists(answers | st.integers(0, 2) | st.lists(st.integers(0, 1), max_size=1), min_size=1, max_size=9)
)
@settings(max_examples=200, deadline=None)
def test_equal_weights_are_the_plain_vote(drawn: list[Any]) -> None:
    assert attend(len(drawn))(drawn) == majority_vote(drawn)


@pytest.mark.parametrize("give", ["key", "item"])
def test_keys_and_normalised_strings_are_those_of_the_plain_vote(give: Any) -> None:
    said = [{"answer": "Rome", "why": 1}, {"answer": "paris.", "why": 2}, {"answer": "Paris", "why": 3}]
    options: dict[str, Any] = {"key": "answer", "normalize": True, "give": give}
    assert attend(NAMES, **options)(said) == majority_vote(said, **options)


@given(votes, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_no_weight_is_negative_and_the_order_of_rows_is_no_matter(drawn: list[Any], random: Any) -> None:
    one, other = attend(NAMES), attend(NAMES)
    count = one.fit(rows_of(drawn))
    shuffled = random.sample(drawn, len(drawn))
    assert other.fit(rows_of(shuffled)) == count
    found = np.array([*one.weights.values()])
    assert (found >= 0).all()
    np.testing.assert_allclose(found, [*other.weights.values()], atol=0.003)


def test_a_voter_that_is_always_wrong_keeps_no_negative_weight() -> None:
    vote = attend(NAMES)
    vote.fit([{"answers": ["x", "y", "z"], "right": right} for right in "xy" * 1000])
    assert 0 <= vote.weights["c"] < 0.5 * min(vote.weights["a"], vote.weights["b"])


def correlated(rows: int, seed: int) -> list[dict[str, Any]]:
    """Four voters share an opinion that is right in 0.7 of the questions; a fifth one is right in 0.87."""
    rng = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for _ in range(rows):
        shared = rng.random() < 0.7
        said = [shared if rng.random() < 0.95 else rng.random() < 0.5 for _ in range(4)]
        found.append({"answers": [*said, rng.random() < 0.87], "right": True})
    return found


def share_right(vote: Attend, rows: list[dict[str, Any]]) -> float:
    return float(np.mean([vote(row["answers"]) == row["right"] for row in rows]))


def test_voters_of_one_opinion_count_as_one() -> None:
    held_out = correlated(4000, 1)
    vote = attend(5)
    assert share_right(vote, held_out) < 0.73
    vote.fit(correlated(400, 0))
    assert share_right(vote, held_out) > 0.84
    assert vote.weights[4] > sum(vote.weights[place] for place in range(4))


def test_few_rows_change_little() -> None:
    vote = attend(["a", "b", "c", "d"])
    vote.fit([{"answers": ["x", "y", "y", "y"], "right": "x"}])
    assert vote(["x", "y", "y", "y"]) == "y"
    assert all(0.5 < weight < 2 for weight in vote.weights.values())


def test_scores_of_voters_teach_as_the_right_answers_do() -> None:
    said = [["x", "y", "y"], {"a": "x", "b": "z", "c": "z"}, ["x", None, "y"]]
    by_score, by_answer = attend(NAMES), attend(NAMES)
    assert by_score.fit({"answers": each, "scores": [True, False, 0.0]} for each in said) == 3
    assert by_answer.fit({"answers": each, "right": "x"} for each in said) == 3
    assert by_score.weights == by_answer.weights
    assert by_score.weights["a"] > 1 > by_score.weights["c"]


def test_soft_scores_are_shares() -> None:
    vote = attend(["a", "b"])
    vote.fit([{"answers": ["x", "y"], "scores": [0.6, 0.2]}] * 3000)
    gap = vote.weights["a"] - vote.weights["b"]
    assert 1 / (1 + np.exp(-gap)) == pytest.approx(0.75, abs=0.01)


def test_rows_that_teach_nothing_are_left_out() -> None:
    vote = attend(NAMES)
    rows = [{"answers": ["x", "x", None], "right": "x"}, {"answers": ["x", "y", "y"], "right": "z"}]
    assert vote.fit([*rows, {"answers": ["x", "y", "y"], "scores": [0, 0, 0]}]) == 0
    assert set(vote.weights.values()) == {1.0}


def test_weights_are_saved(tmp_path: Path) -> None:
    vote = attend(NAMES)
    vote.fit(rows_of([["x", "y", "y"]] * 9))
    save(tmp_path / "vote", vote)
    assert load(tmp_path / "vote", attend(NAMES)).weights == vote.weights
    with pytest.raises(ValueError, match="labels"):
        load(tmp_path / "vote", attend(["a", "b", "other"]))


@pytest.mark.parametrize("mode", MODES)
def test_failed_samples_of_a_vmap_abstain_in_their_places(mode: str) -> None:
    def voter(state: dict[str, Any]) -> str:
        if state["item"] == 1:
            raise ConnectionError("reset by peer")
        return "right" if state["item"] == 4 else "wrong"

    vote = attend(5)
    vote.fit([{"answers": [*["y"] * 4, "x"], "right": "x"}] * 50)
    fan_out = vmap(voter, sample=5, out_key="votes", on_error="collect")
    fan_in = reduce_edge(input_key="votes", output_key="answer", reducer=vote)
    assert run(fan_in, run(fan_out, {}, mode), mode) == {"answer": "right"}


def test_if_all_voters_failed_the_default_is_taken() -> None:
    def voter(state: dict[str, Any]) -> str:
        raise ConnectionError("reset by peer")

    votes = vmap(voter, sample=2, out_key="votes", on_error="collect").invoke({})
    edge = reduce_edge(input_key="votes", output_key="answer", reducer=attend(2), default="none")
    assert edge.invoke(votes) == {"answer": "none"}


@pytest.mark.parametrize("mode", MODES)
def test_branches_are_voters_by_name(mode: str) -> None:
    vote = attend(NAMES, key="answer")
    branches = {name: lambda state, name=name: state[name] for name in NAMES}
    edge = parallel(branches, merge=vote, on_error="isolate")
    state = {"a": {"answer": "x", "why": 1}, "b": {"answer": "y"}, "c": {"answer": "y"}}
    assert run(edge, state, mode) == {"answer": "y"}
    vote.fit([{"answers": state, "right": "x"}] * 30)
    assert run(edge, state, mode) == {"answer": "x", "why": 1}
    del state["a"]  # the branch fails
    assert run(edge, state, mode) == {"answer": "y"}


@pytest.mark.parametrize(
    ("arguments", "error", "why"),
    [
        ({"voters": []}, LearnError, "different names"),
        ({"voters": ["a", "a"]}, LearnError, "different names"),
        ({"voters": 0}, LearnError, "how many"),
        ({"voters": "ab"}, LearnError, "different names"),
        ({"key": 3}, LearnError, "key=3"),
        ({"give": "all"}, ReducerError, "give"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], error: Any, why: str) -> None:
    with pytest.raises(error, match=why):
        attend(**{"voters": NAMES, **arguments})


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["x", "y"], "each of 3 voters"),
        ("xyz", "each of 3 voters"),
        ({"d": "x"}, "'d'"),
        ([None, None, None], "no values"),
    ],
)
def test_other_answers_are_refused(values: Any, why: str) -> None:
    with pytest.raises(ReducerError, match=why):
        attend(NAMES)(values)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"right": "x"}, "'answers'"),
        ({"answers": ["x", "y", "y"]}, "'right' or 'scores'"),
        ({"answers": ["x"], "right": "x"}, "row 0: attend"),
        ({"answers": ["x", "y", "y"], "scores": [1, -1, 0]}, "-1"),
        ({"answers": ["x", "y", "y"], "scores": [1]}, "each of 3"),
        (3, "row 0 is 3"),
    ],
)
def test_invalid_rows_are_refused(row: Any, why: str) -> None:
    with pytest.raises(LearnError, match=why):
        attend(NAMES).fit([row])
    with pytest.raises(LearnError, match="l2"):
        attend(NAMES).fit([], l2=-1.0)
