"""`ensemble`: functions concurrently, and one result of theirs."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from mahsm._common import check, is_figure, shown
from mahsm._waiting import THREAD, Way
from mahsm.compose._calls import Kind, acall, call, kind_of
from mahsm.compose._function import AwaitedFunction, ComposedFunction, P, is_awaited
from mahsm.operators import EnsembleOperator, Operator
from mahsm.operators._internal import in_thread
from mahsm.reducers import weighted_vote


class _Member(Operator):
    """A function, called with arguments: its input is a tuple and a dict of them."""

    function: Any
    kind: Kind

    def forward(self, input: Any, /) -> Any:
        return call(self.function, self.kind, *input)

    async def aforward(self, input: Any, /) -> Any:
        return await acall(self.function, self.kind, *input)

    @property
    def awaits(self) -> bool:
        return self.kind.awaits


class _Ensemble(ComposedFunction[P, Any]):
    made_by = "ensemble"
    members: EnsembleOperator
    reduce: Any

    @property
    def first(self) -> Any:
        member: Any = self.members.members[0]
        return member.function

    @property
    def parts(self) -> tuple[Any, ...]:
        return tuple(cast("Any", member).function for member in self.members.members)

    @property
    def returns(self) -> Any:
        return None

    def described(self) -> str | None:
        names = [member.kind.name for member in self.members.members if isinstance(member, _Member)]
        return f"Call {', '.join(names)} concurrently."

    async def run(self, way: Way, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # The methods of the class, since Equinox wraps those of an instance.
        if way is THREAD:
            results = EnsembleOperator.forward(self.members, (args, kwargs))
            return results if self.reduce is None else self.reduce(results)
        results = await EnsembleOperator.aforward(self.members, (args, kwargs))
        if self.reduce is None:
            return results
        if is_awaited(self.reduce):
            return await self.reduce(results)
        return await in_thread(partial(self.reduce, results))


class _AwaitedEnsemble(AwaitedFunction[P, Any], _Ensemble[P]):
    pass


@check.arguments()
def ensemble(
    first: Callable[P, Any],
    /,
    *more: Callable[..., Any],
    reduce: Callable[[list[Any]], Any] | None = None,
    weights: Sequence[float] | None = None,
    max_concurrency: int | None = None,
) -> ComposedFunction[P, Any]:
    """Call functions with the same arguments, concurrently, and combine their results.

    Blocking functions run in threads of their own. The first error is raised, and the other functions are
    cancelled. If one of the functions is async, or `reduce` is, so is the ensemble.

    Args:
        first: A function, sync or async, an operator, or a DSPy module.
        more: The others.
        reduce: Maps the list of results, in the order of the functions, to one result, as `majority_vote` and
            the other reducers do; by default the list is the result.
        weights: One weight >= 0 for each function. The result is the value whose weights add up to most; of
            equals, the first.
        max_concurrency: The most functions that run at any moment, at least 1; by default all.

    Raises:
        TypeError: immediately, if one of them cannot be called.
        ValueError: immediately, if `weights` or `max_concurrency` is invalid, or `weights` comes with
            `reduce`.

    Example:
        >>> from mahsm import ensemble
        >>> ensemble(str.upper, str.lower, str.title)("Ada L")
        ['ADA L', 'ada l', 'Ada L']
        >>> ensemble(min, max, sum, weights=[0.5, 0.3, 0.3])([1, 2])
        1
    """
    functions = (first, *more)
    kinds = [kind_of("ensemble", function) for function in functions]
    if reduce is not None and not callable(reduce):
        raise TypeError(
            f"ensemble: reduce={shown(reduce)}; expected a function of the list of results, such as "
            "mahsm.reducers.majority_vote."
        )
    if weights is not None:
        reduce = _weighing(weights, len(functions), reduce)
    members = EnsembleOperator(
        [_Member(function, kind) for function, kind in zip(functions, kinds, strict=True)],
        max_concurrency=max_concurrency,
    )
    is_async = any(kind.is_async for kind in kinds) or is_awaited(reduce)
    kind = replace(kinds[0], name="ensemble", is_async=is_async, awaits=is_async or members.awaits)
    return (_AwaitedEnsemble if is_async else _Ensemble)(kind=kind, members=members, reduce=reduce)


class _Weighing:
    """A weighted vote on the results of functions.

    Args:
        weights: The weights, in the order of the functions.
    """

    def __init__(self, weights: tuple[float, ...]) -> None:
        self._weights = weights

    def __call__(self, results: list[Any]) -> Any:
        votes = list(zip(results, self._weights, strict=True))
        return weighted_vote(votes, weight=_weight, key=_result)


def _result(vote: tuple[Any, float]) -> Any:
    return vote[0]


def _weight(vote: tuple[Any, float]) -> float:
    return vote[1]


def _weighing(weights: Any, functions: int, reduce: Any) -> _Weighing:
    if reduce is not None:
        raise ValueError(
            f"ensemble: reduce={shown(reduce)} with weights={shown(weights)}, which vote "
            "already; expected one of the two."
        )
    given: tuple[Any, ...] = tuple(weights) if hasattr(weights, "__iter__") else ()
    if len(given) != functions or not all(map(is_figure, given)):
        raise ValueError(
            f"ensemble: weights={shown(weights)}; expected {functions} numbers >= 0, one for each function."
        )
    return _Weighing(given)
