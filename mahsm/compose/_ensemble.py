"""`ensemble`: several functions get the same arguments, beside each other."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx

from mahsm._common import check, is_figure, shown
from mahsm._waiting import TASK, THREAD, Way, left_behind, tasks
from mahsm.compose._part import Composed, call_part, check_part, name_of, parameters_of_part
from mahsm.operators._internal import Parameters, blocking, in_thread


class Ensemble(Composed):
    """Functions beside each other. Made by `ensemble`.

    Attributes:
        first: The first function.
        others: The other functions.
        reduce: From the list of their results to one; None for the list.
        max_concurrency: The number of members that run at the same time; None for all.
    """

    first: Any
    others: tuple[Any, ...]
    reduce: Callable[[list[Any]], Any] | None = eqx.field(static=True)
    max_concurrency: int | None = eqx.field(static=True)
    parameters: Parameters = eqx.field(static=True)

    @property
    def name(self) -> str:
        """The names of the functions."""
        return "ensemble_" + "_".join(dict.fromkeys(map(name_of, self.parts)))

    @property
    def parts(self) -> tuple[Any, ...]:
        return (self.first, *self.others)

    async def _run(self, way: Way, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        call = partial(self._results, args, options)
        results = blocking(call, awaits=False) if way is THREAD else await call()
        if self.reduce is None:
            return results
        return self.reduce(results) if way is THREAD else await in_thread(partial(self.reduce, results))

    async def _results(self, args: tuple[Any, ...], options: dict[str, Any]) -> list[Any]:
        free = asyncio.Semaphore(self.max_concurrency or len(self.parts))

        async def call(member: Any) -> Any:
            await free.acquire()
            left_behind.check()
            result = await call_part(member, TASK, args, options)
            free.release()  # not after an error, or the next one would begin before it is cancelled
            return result

        async with tasks.task_group() as group:
            running = [group.create_task(call(member)) for member in self.parts]
        return [task.result() for task in running]


def ensemble(
    *fns: Any,
    reduce: Callable[[list[Any]], Any] | None = None,
    weights: Sequence[float] | None = None,
    max_concurrency: int | None = None,
) -> Ensemble:
    """Call several functions with the same arguments, beside each other.

    The first error of a function comes out, and the others are cancelled; a blocking call that is in progress
    is left to run on.

    Args:
        *fns: Functions, sync or async, operators or DSPy modules, at least one.
        reduce: From the list of their results, in the order of the functions, to one, such as
            `mahsm.reducers.majority_vote`; by default the list.
        weights: What the vote of each function weighs, >= 0: the result is the value with the most weight,
            the first of several.
        max_concurrency: The number of functions that run at the same time, >= 1; by default all.

    Returns:
        An operator, awaited if one of the functions is async.

    Raises:
        TypeError: immediately, for no function, and for what cannot be called.
        ValueError: immediately, for weights that do not fit, or together with `reduce`.
        EdgeError: immediately, for an invalid `max_concurrency`.

    Example:
        >>> from mahsm import ensemble
        >>> ensemble(str.upper, str.title, str.upper, weights=[1, 3, 1])("word")
        'Word'
        >>> ensemble(min, max)([3, 1, 2])
        [1, 3]
    """
    if not fns:
        raise TypeError("ensemble got no function; expected at least one. Write ensemble(first, second).")
    members = tuple(check_part("ensemble", fn) for fn in fns)
    if max_concurrency is not None:
        check.whole(
            "ensemble", "max_concurrency", max_concurrency, "the number of functions at the same time"
        )
    if reduce is not None and not callable(reduce):
        raise TypeError(f"ensemble: reduce={shown(reduce)}; expected a function of the list of results.")
    if weights is not None:
        if reduce is not None:
            raise ValueError("ensemble: reduce and weights exclude each other. Pass one of them.")
        reduce = partial(_vote, _checked(weights, len(members)))
    return Ensemble(
        first=members[0],
        others=members[1:],
        reduce=reduce,
        max_concurrency=max_concurrency,
        parameters=parameters_of_part(members[0]),
    )


def _checked(weights: Sequence[float], count: int) -> tuple[float, ...]:
    if len(weights) != count or not all(is_figure(weight) and weight >= 0 for weight in weights):
        raise ValueError(
            f"ensemble: weights={shown(weights)}; expected {count} numbers >= 0, one for each function."
        )
    return tuple(weights)


def _vote(weights: tuple[float, ...], results: list[Any]) -> Any:
    """Return the value with the most weight. Values are compared with `==`, so that any can be voted on."""
    values: list[Any] = []
    totals: list[float] = []
    for result, weight in zip(results, weights, strict=True):
        place = next((place for place, value in enumerate(values) if value == result), None)
        if place is None:
            values.append(result)
            totals.append(weight)
        else:
            totals[place] += weight
    return values[totals.index(max(totals))]
