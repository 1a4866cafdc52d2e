"""A model that chooses: orders, tournaments, judges of one's own."""

import json
from typing import Any

import dspy
import pytest

from mahsm import reduce_edge
from mahsm.errors import ReducerError
from mahsm.reducers import llm_judge_select
from mahsm.testing import Call, ModelServer
from tests.helpers import MODES, run


def listed(call: Call) -> list[str]:
    """The candidates of a prompt."""
    return json.loads(call.field("candidates"))


def longest(call: Call) -> dict[str, Any]:
    """A judge that looks at lengths only."""
    candidates = listed(call)
    best = max(range(len(candidates)), key=lambda place: len(candidates[place]))
    return {"reason": f"{len(candidates[best])} letters", "best": best + 1}


def longer(call: Call) -> dict[str, Any]:
    first, second = call.field("first"), call.field("second")
    return {"reason": "longer", "better": "first" if len(first) > len(second) else "second"}


@pytest.mark.parametrize("mode", MODES)
def test_all_at_once(mode: str) -> None:
    reducer = llm_judge_select(criteria="length", with_reason=True)
    with ModelServer(longest) as server, dspy.context(lm=server.lm()):
        edge = reduce_edge(input_key="xs", output_key="best", reducer=reducer)
        assert run(edge, {"xs": ["a", "abc", "ab"]}, mode)["best"] == {"value": "abc", "reason": "3 letters"}
    assert [listed(call) for call in sorted(server.calls, key=lambda call: listed(call)[0])] == [
        ["a", "abc", "ab"],
        ["ab", "abc", "a"],
    ]
    assert all(call.field("criteria") == "length" for call in server.calls)


def test_a_judge_that_prefers_what_stands_first_gets_the_first_of_the_list() -> None:
    with ModelServer({"reason": "I like it", "best": 1}) as server, dspy.context(lm=server.lm()):
        assert llm_judge_select(["a", "b", "c"]) == "a"
        assert len(server.calls) == 2
        assert llm_judge_select(["a", "b", "c"], swap=False) == "a"
    assert len(server.calls) == 3


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_a_tournament(count: int) -> None:
    values = [{"text": "x" * (1 + place * 7 % count)} for place in range(count)]
    with ModelServer(longer) as server, dspy.context(lm=server.lm()):
        best = llm_judge_select(values, mode="tournament", key="text")
    assert len(best["text"]) == max(len(value["text"]) for value in values)
    assert len(server.calls) == 2 * (count - 1), "each match in both orders"


def test_a_tie_in_a_tournament_goes_to_the_first() -> None:
    with ModelServer({"reason": "", "better": "second"}) as server, dspy.context(lm=server.lm()):
        assert llm_judge_select(["a", "b", "c"], mode="tournament", with_reason=True) == {
            "value": "a",
            "reason": "",
        }


@pytest.mark.parametrize("mode", MODES)
def test_a_judge_of_ones_own_sees_the_state(mode: str) -> None:
    judge = dspy.ChainOfThought("question, candidates: list[str] -> best: int")
    edge = reduce_edge(input_key="xs", output_key="best", reducer=llm_judge_select(judge=judge, swap=False))
    with ModelServer({"reasoning": "so", "best": 2}) as server, dspy.context(lm=server.lm()):
        assert run(edge, {"xs": ["a", {"b": 1}], "question": "which?"}, mode)["best"] == {"b": 1}
    assert server.calls[0].field("question") == "which?"
    assert listed(server.calls[0]) == ["a", '{"b": 1}']


def test_a_signature_is_a_judge_too() -> None:
    with ModelServer({"best": 2}) as server, dspy.context(lm=server.lm()):
        assert (
            llm_judge_select(["a", object], judge="candidates: list[str] -> best: int", swap=False) is object
        )


def test_one_candidate_needs_no_judge() -> None:
    assert llm_judge_select(["a"], with_reason=True) == {"value": "a", "reason": ""}


def test_what_is_refused() -> None:
    with pytest.raises(ReducerError, match="mode='duel'; expected 'one_call' or 'tournament'"):
        llm_judge_select(mode="duel")  # type: ignore[call-overload]
    with pytest.raises(ReducerError, match="no values to choose from"):
        llm_judge_select([])
    with (
        ModelServer({"reason": "", "best": 7}) as server,
        dspy.context(lm=server.lm()),
        pytest.raises(
            ReducerError,
            match=r"the judge gave best=7; expected one of 1, 2. A judge of your own has to give 'best'",
        ),
    ):
        llm_judge_select(["a", "b"])
