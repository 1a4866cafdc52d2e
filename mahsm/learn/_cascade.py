"""`cascade`: an edge that asks the next stronger target only if an answer is not accepted."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from mahsm._common import is_figure, shown
from mahsm.edges import Edge
from mahsm.edges._internal import Branches, Situation, Step, constructor, routed
from mahsm.errors import EdgeError, LearnError
from mahsm.learn._trial import trial_here


@constructor(
    **dict.fromkeys(("retry", "timeout", "rate_limit"), "It belongs to a target: Branch(target, retry=...).")
)
def cascade(
    targets: Branches,
    *,
    accept: Any,
    threshold: float | Sequence[float] = 0.5,
    write_to: str = "choice",
    name: str | None = None,
) -> Edge:
    """Ask targets one after the other, the cheapest first, until an answer is accepted.

    The answer of the last target is taken without a question. The edge returns the update of the target whose
    answer was accepted, and under `write_to` what happened: `{"arm": target, "asked": targets, "scores":
    scores}`, with a score for each answer that was judged. Declare the key in the state, or LangGraph drops
    it.

    With a checkpointer, a resumed run neither asks nor judges again for answers and scores that were saved.
    `durability="sync"` saves each before the next call; LangGraph's default saves it meanwhile.

    Args:
        targets: At least two targets, the cheapest and weakest first: a list, or a dict by name. Each is
            anything that `vmap` takes, or a `Branch` with its own retry, timeout and rate limit.
        accept: A target that is called with the state and the update over it: a function, a DSPy module, an
            operator, or a `Branch` with one. It returns how good the answer is, a number, or True or False;
            or a dict or prediction with one such value.
        threshold: The least score of an accepted answer, or one for each target but the last. See
            `thresholds`, which finds them from a log.
        write_to: State key for what happened.
        name: Node name; by default `cascade_` and the targets.

    Returns:
        An edge that writes what its targets write, and `write_to`.

    Raises:
        EdgeError: immediately, for invalid arguments.
        NodeError: immediately, for a target that cannot be called with a state.
        LearnError: when run, if `accept` returns anything else.

    Example:
        >>> from mahsm.learn import cascade
        >>> edge = cascade(
        ...     {
        ...         "cheap": lambda state: {"answer": "42" if len(state["question"]) < 9 else "?"},
        ...         "strong": lambda state: {"answer": "because"},
        ...     },
        ...     accept=lambda state: state["answer"] != "?",
        ... )
        >>> edge.invoke({"question": "6 * 7?"})
        {'answer': '42', 'choice': {'arm': 'cheap', 'asked': ['cheap'], 'scores': [1.0]}}
        >>> edge.invoke({"question": "Why is the sky blue?"})["choice"]
        {'arm': 'strong', 'asked': ['cheap', 'strong'], 'scores': [0.0]}
    """
    edge = "cascade" if name is None else f"cascade {name!r}"
    if not isinstance(targets, Mapping | Sequence) or len(targets) < 2:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EdgeError(
            f"{edge}: targets={shown(targets)}; expected a list or dict of at least two, the cheapest first."
        )
    if accept is None:
        raise EdgeError(f"{edge}: accept=None; expected a function of the state that returns a score.")
    chooser = UntilAccepted(_thresholds(edge, threshold, len(targets) - 1), accept, edge)
    return routed(edge, targets, chooser, name=name, write_to=write_to)


def _thresholds(edge: str, given: Any, count: int) -> tuple[float, ...]:
    """Return a threshold for each target but the last."""
    found = [given] * count if is_figure(given, -1e300, 1e300) else given
    if (
        not isinstance(found, Sequence)
        or len(cast("Sequence[Any]", found)) != count
        or not all(is_figure(one, -1e300, 1e300) for one in cast("Sequence[Any]", found))
    ):
        raise EdgeError(
            f"{edge}: threshold={shown(given)}; expected a number, or a list of {count} numbers, one for "
            "each target but the last."
        )
    return tuple(float(one) for one in cast("Sequence[float]", found))


class UntilAccepted:
    """Chooses the next branch until the answer of one is accepted.

    Attributes:
        thresholds: The least score of an accepted answer, for each branch but the last. `train` replaces it.
        judge: The target that scores an answer.
    """

    def __init__(self, thresholds: Sequence[float], judge: Any, edge: str) -> None:
        self.thresholds = tuple(thresholds)
        self.judge = judge
        self._edge = edge

    async def step(self, now: Situation) -> Step:
        trial = trial_here()
        told, place = (None, None) if trial is None else (trial.told(self), trial.place())
        count = len(now.asked)
        if count == 0:
            return Step(next=told or now.names[0], note={"scores": []})
        last = now.asked[-1]
        scores: list[float] = list(last.step["note"]["scores"])
        is_last = last.step["next"] == now.names[-1]
        if not is_last:
            scores.append(self._score(await now.call({**now.state, **last.update})))
        if told is not None or is_last or scores[-1] >= self.thresholds[count - 1]:
            asked = [str(one.step["next"]) for one in now.asked]
            if trial is not None and place is not None:
                trial.saw(self, place, scores[-1] if scores else None)
                trial.asked.extend((self, name) for name in asked)
            return Step(next=None, note={"arm": asked[-1], "asked": asked, "scores": scores})
        return Step(next=now.names[count], note={"scores": scores})

    def _score(self, found: Any) -> float:
        value = found
        if not isinstance(value, bool | int | float):
            items = dict(cast("Mapping[str, Any]", value)) if hasattr(value, "items") else {}
            numbers = [one for one in items.values() if isinstance(one, bool | int | float)]
            value = numbers[0] if len(numbers) == 1 else None
        if isinstance(value, bool) or is_figure(value, -1e300, 1e300):
            return float(value)
        raise LearnError(
            f"{self._edge}: accept returned {shown(found)}; expected a number, True or False, or a dict or "
            "prediction with one of these."
        )
