"""The reducers: results, ties, and what they refuse."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from mahsm import reduce_edge, vmap
from mahsm.edges._shared.reducer import streamed
from mahsm.errors import ReducerError
from mahsm.reducers import concat, majority_vote, mean, score_and_select, top_k, weighted_vote

ROWS = [{"id": "a", "score": 1}, {"id": "b", "score": 3}, {"id": "c", "score": 3}]


def test_majority_vote() -> None:
    assert majority_vote(["a", "b", "b"]) == "b"
    assert majority_vote([{"x": 1}, {"x": 2}, {"x": 2}]) == {"x": 2}, "votes need not be hashable"
    assert majority_vote(ROWS, key="score") == 3
    assert majority_vote(key=lambda row: row["score"])(ROWS) == 3


def test_majority_vote_gives_the_item_that_has_the_winning_key() -> None:
    rows = [{"answer": 5, "why": "a"}, {"answer": "4.", "why": "b"}, {"answer": "4", "why": "c"}]
    assert majority_vote(rows, key="answer", normalize=True, give="item") is rows[1], "the first that has it"
    assert majority_vote(key="answer", normalize=True)(rows) == "4."
    assert majority_vote(["a", "b", "b"], give="item") == "b"
    edge = reduce_edge(
        input_key="rows", output_key="row", reducer=majority_vote(key="answer", normalize=True, give="item")
    )
    assert edge.invoke({"rows": rows}) == {"row": rows[1]}


def test_weighted_vote_gives_the_item() -> None:
    votes = [{"a": "x", "w": 1}, {"a": "y", "w": 0.6}, {"a": "y", "w": 0.7}]
    assert weighted_vote(votes, weight="w", key="a", give="item") is votes[1]
    assert weighted_vote(weight="w", key="a", give="item")(votes) is votes[1]


@pytest.mark.parametrize("vote", [majority_vote, partial(weighted_vote, weight="w")])
def test_votes_that_should_give_something_else(vote: Any) -> None:
    with pytest.raises(ReducerError, match=r"give='row'; expected 'key' or 'item'"):
        vote(give="row")


def test_a_vote_that_stops_a_vmap_gives_the_item_too() -> None:
    vote = majority_vote(key="answer", give="item")
    edge = vmap(
        lambda state: {"answer": 4, "i": state["item"]},
        batch_key="xs",
        out_key="ys",
        stop_when=vote,
        max_concurrency=1,
    )
    update = edge.invoke({"xs": [0, 1, 2, 3, 4]})
    assert len(update["ys"]) == 3
    reducer = streamed(vote)
    assert reducer is not None
    state = reducer.init(3)
    for entry in update["ys"]:
        state = reducer.add(state, entry)
    assert reducer.result(state) == {"answer": 4, "i": 0}


def test_majority_vote_tie_goes_to_the_first() -> None:
    assert majority_vote(["b", "a", "a", "b"]) == "b"


def test_score_and_select() -> None:
    assert score_and_select(ROWS, score_key="score") is ROWS[1], "the first of equals"
    assert score_and_select(ROWS, score_key="score", mode="min") is ROWS[0]
    assert score_and_select(score_key=lambda row: -row["score"])(ROWS) is ROWS[0]


def test_top_k() -> None:
    assert top_k([1, 3, 2], k=2) == [3, 2]
    assert top_k([1], k=5) == [1]
    assert top_k([], k=5) == []
    assert [row["id"] for row in top_k(k=2, key="score")(ROWS)] == ["b", "c"], "equals stay in order"


def test_mean() -> None:
    assert mean([1, 2]) == 1.5
    assert mean(key="score")([*ROWS, {"score": np.float64(5)}]) == 3.0
    assert type(mean([np.float32(1)])) is float, "a checkpointer takes no NumPy scalar"


def test_concat() -> None:
    assert concat(["a", "b"]) == "a\n\nb"
    assert concat(separator="-")(["a", "b"]) == "a-b"
    assert concat([[1], (2, 3)]) == [1, 2, 3]
    assert concat(ROWS, key="id", separator="") == "abc"
    assert concat([]) == []


BAD: dict[str, tuple[Any, str]] = {
    "no votes": (lambda: majority_vote([]), r"majority_vote: there are no values to choose from"),
    "no candidates": (
        lambda: score_and_select([], score_key="score"),
        r"score_and_select: there are no values",
    ),
    "no numbers": (lambda: mean([]), r"mean: there are no values"),
    "lacks the key": (
        lambda: mean(ROWS, key="cost"),
        r"mean: value 0 has no key 'cost'; it has 'id', 'score'",
    ),
    "no dict": (lambda: mean([1], key="score"), r"mean: value 0 is 1; expected a dict with the key 'score'"),
    "nan": (lambda: top_k([1, float("nan")], k=1), r"top_k: the score of value 1 is nan; expected a number"),
    "no number": (lambda: mean(["x"]), r"mean: the score of value 0 is 'x'; expected a number"),
    "mode": (
        lambda: score_and_select(ROWS, score_key="score", mode="best"),
        r"mode='best'; expected 'max' or 'min'",
    ),  # type: ignore[call-overload]
    "k": (lambda: top_k(k=0), r"top_k: k=0; expected an integer >= 1"),
    "mixed": (lambda: concat(["a", [1]]), r"concat: found 'a'; expected all strings, or all lists"),
    "numbers": (lambda: concat([1]), r"concat: found 1; expected all strings, or all lists"),
    "none": (lambda: concat([[1], None]), r"concat: found None; expected"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_decided_is_an_error(call: Any, message: str) -> None:
    with pytest.raises(ReducerError, match=message):
        call()
