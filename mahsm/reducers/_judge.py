"""`llm_judge_select`: the choice of a model."""

import json
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal, TypeAlias, get_args, overload

import dspy
from typing_extensions import Unpack

from mahsm._common import State, shown
from mahsm.edges import Edge, VmapOptions, vmap
from mahsm.errors import ReducerError
from mahsm.reducers._values import Key, check_some, parts

Mode: TypeAlias = Literal["one_call", "tournament"]
Judged = Callable[[Sequence[Any], State], Any]


class ChooseBest(dspy.Signature):
    """Judge the candidates by the criteria. Their order means nothing, and neither does their length."""

    criteria: str = dspy.InputField()
    candidates: list[str] = dspy.InputField(desc="numbered from 1")
    reason: str = dspy.OutputField(desc="why the best one is better than the others")
    best: int = dspy.OutputField(desc="number of the best candidate, from 1")


class ChooseBetter(dspy.Signature):
    """Judge the two candidates by the criteria. Their order means nothing, and neither does their length."""

    criteria: str = dspy.InputField()
    first: str = dspy.InputField()
    second: str = dspy.InputField()
    reason: str = dspy.OutputField(desc="why it is better than the other one")
    better: Literal["first", "second"] = dspy.OutputField()


@overload
def llm_judge_select(
    values: Sequence[Any],
    /,
    *,
    criteria: str = ...,
    judge: Any = None,
    key: Key | None = None,
    mode: Mode = "one_call",
    swap: bool = True,
    with_reason: bool = False,
    **options: Unpack[VmapOptions],
) -> Any: ...
@overload
def llm_judge_select(
    *,
    criteria: str = ...,
    judge: Any = None,
    key: Key | None = None,
    mode: Mode = "one_call",
    swap: bool = True,
    with_reason: bool = False,
    **options: Unpack[VmapOptions],
) -> Judged: ...
def llm_judge_select(
    values: Sequence[Any] | None = None,
    /,
    *,
    criteria: str = "The candidate that answers best.",
    judge: Any = None,
    key: Key | None = None,
    mode: Mode = "one_call",
    swap: bool = True,
    with_reason: bool = False,
    **options: Unpack[VmapOptions],
) -> Any:
    """Return the value that a model judges to be the best.

    Models prefer candidates that come first in the prompt (Zheng et al., Judging LLM-as-a-Judge, 2023), so
    the candidates are shown in both orders. If the two answers differ, the candidate that comes first in the
    list wins.

    Args:
        values: The candidates.
        criteria: The criteria for the best candidate.
        judge: A DSPy signature or module of your own. Its input is `candidates`, a list of strings, and its
            output `best`, a number from 1. In a tournament, its inputs are `first` and `second`, and its
            output is `better`, one of these two words. It may have `criteria` as a further input, and in a
            `reduce_edge` the keys of the state; an output `reason` is kept.
        key: The part of a value to show: a key of the value, or a function of it; by default the whole value.
        mode: `"one_call"` shows all candidates in one call; `"tournament"` two per call, in `ceil(log2(n))`
            rounds.
        swap: Show the candidates in both orders, with two calls.
        with_reason: Return `{"value": ..., "reason": ...}`; the reason is "" for a single candidate.
        **options: Options of the calls: `max_concurrency`, `rate_limit`, `retry`, `timeout`, `cache` and
            others of `mahsm.edges.VmapOptions`.

    Raises:
        ReducerError: if there are no candidates, a candidate lacks the key, or the judge does not name one of
            the candidates.

    Example:
        >>> import dspy, json
        >>> from mahsm.testing import ModelServer
        >>> def model(call):  # prefers the short one, at any position
        ...     return {"reason": "It is short.", "best": 1 + json.loads(call.field("candidates")).index("4")}
        >>> with ModelServer(model) as server, dspy.context(lm=server.lm()):
        ...     llm_judge_select(["It is 4, I think.", "4"], criteria="short", with_reason=True)
        {'value': '4', 'reason': 'It is short.'}
    """
    if mode not in get_args(Mode):
        raise ReducerError(f"llm_judge_select: mode={mode!r}; expected 'one_call' or 'tournament'.")
    default: Any = ChooseBest if mode == "one_call" else ChooseBetter
    module = judge if isinstance(judge, dspy.Module) else dspy.Predict(judge or default)
    options.setdefault("name", "judge")
    edge = vmap(module, batch_key=_MATCHES, out_key=_VERDICTS, item_to_state=_shown_to_judge, **options)
    play = _one_call if mode == "one_call" else _tournament

    def reduce(values: Sequence[Any], state: State) -> Any:
        check_some("llm_judge_select", values)
        texts = [_text(part) for part in parts("llm_judge_select", values, key)]
        best, reason = (
            play(edge, texts, {"criteria": criteria, **state}, swap=swap) if len(texts) > 1 else (0, "")
        )
        return {"value": values[best], "reason": reason} if with_reason else values[best]

    # Traces then show the reducer as an evaluator.
    vars(reduce)["judges"] = True
    return reduce if values is None else reduce(values, {})


_MATCHES, _VERDICTS = "judge_matches", "judge_verdicts"
Match: TypeAlias = list[tuple[int, str]]
"""Candidates with their positions in the list, in the order in which they are shown."""


def _shown_to_judge(match: Match) -> State:
    texts = [text for _, text in match]
    return {"candidates": texts, "first": texts[0], "second": texts[-1]}


def _one_call(edge: Edge, texts: Sequence[str], state: State, *, swap: bool) -> tuple[int, str]:
    match = list(enumerate(texts))
    return _verdicts(edge, [match], state, "best", swap=swap)[0]


def _tournament(edge: Edge, texts: Sequence[str], state: State, *, swap: bool) -> tuple[int, str]:
    left, reason = list(range(len(texts))), ""
    while len(left) > 1:
        pairs = [left[start : start + 2] for start in range(0, len(left), 2)]
        matches = [[(place, texts[place]) for place in pair] for pair in pairs if len(pair) == 2]
        verdicts = _verdicts(edge, matches, state, "better", swap=swap)
        reason = verdicts[0][1]
        left = [place for place, _ in verdicts] + [pair[0] for pair in pairs if len(pair) == 1]
    return left[0], reason


def _verdicts(
    edge: Edge, matches: list[Match], state: State, field: str, *, swap: bool
) -> list[tuple[int, str]]:
    """Return the winner of each match, and the reason given for it."""
    shown_as = [order for match in matches for order in ((match, match[::-1]) if swap else (match,))]
    answers: list[Any] = edge.invoke({**state, _MATCHES: shown_as})[_VERDICTS]
    chosen = [
        (_chosen(order, answer, field), str(answer.get("reason", "")))
        for order, answer in zip(shown_as, answers, strict=True)
    ]
    size = 2 if swap else 1
    return [min(chosen[start : start + size], key=itemgetter(0)) for start in range(0, len(chosen), size)]


def _chosen(order: Match, answer: Mapping[str, Any], field: str) -> int:
    said = answer.get(field)
    places: dict[Any, int] = (
        {"first": 0, "second": 1}
        if field == "better"
        else {number + 1: number for number in range(len(order))}
    )
    if said not in places:
        raise ReducerError(
            f"llm_judge_select: the judge gave {field}={shown(said)}; expected one of "
            f"{', '.join(map(repr, places))}. A judge of your own has to give {field!r}."
        )
    return order[places[said]][0]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError:
        return str(value)
