"""Operators made of operators: concurrent ones, and sequences."""

import asyncio
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx

from mahsm._common import shown
from mahsm._waiting import left_behind, tasks
from mahsm.errors import JitError
from mahsm.operators._operator import Operator, check_operators
from mahsm.operators._threads import blocking, in_thread, traced


class EnsembleOperator(Operator):
    """Call several operators with one input, concurrently, and combine their results.

    Async members, such as models, are awaited; blocking ones run in threads of their own, in the caller's
    context. While JAX traces, the members run one after the other. The first error of a member is raised, and
    the other members are cancelled; a blocking call in progress runs on in its thread.

    Attributes:
        members: The operators, at least one.
        combine: Maps the list of results, in the order of the members, to one result; by default the list.
        max_concurrency: The most members that run at any moment, at least 1; by default all.

    Raises:
        TypeError: immediately, if a member is not an operator.
        ValueError: immediately, if `max_concurrency` is below 1.

    Example:
        >>> from mahsm.operators import EnsembleOperator, op
        >>> EnsembleOperator([op(lambda x: x + 1), op(lambda x: x * 2)], combine=max)(5)
        10
    """

    members: list[Operator]
    combine: Callable[..., Any] | None = eqx.field(static=True, default=None)
    max_concurrency: int | None = eqx.field(static=True, default=None, kw_only=True)

    _composed = True

    def __check_init__(self) -> None:
        check_operators("EnsembleOperator", "members", self.members)
        most: Any = self.max_concurrency
        if most is not None and (type(most) is not int or most < 1):
            raise ValueError(
                f"EnsembleOperator: max_concurrency={shown(most)}; expected an integer, at least 1, or None."
            )

    def forward(self, input: Any, /) -> Any:
        if traced() or (len(self.members) == 1 and not self.awaits):
            return self._combined([without_waiting(member, input) for member in self.members])
        return self._combined(blocking(partial(self._results, input), awaits=self.awaits))

    async def aforward(self, input: Any, /) -> Any:
        results = await self._results(input)
        return results if self.combine is None else await in_thread(partial(self._combined, results))

    @property
    def awaits(self) -> bool:
        return any(member.awaits for member in self.members)

    async def _results(self, input: Any) -> list[Any]:
        free = asyncio.Semaphore(self.max_concurrency or len(self.members))
        async with tasks.task_group() as group:
            running = [group.create_task(_in_turn(member, input, free)) for member in self.members]
        return [task.result() for task in running]

    def _combined(self, results: list[Any]) -> Any:
        return results if self.combine is None else self.combine(results)


async def _in_turn(member: Operator, input: Any, free: asyncio.Semaphore) -> Any:
    await free.acquire()
    left_behind.check()
    result = await member.acall(input)
    # The slot is not released after an error: the next member would begin before it is cancelled.
    free.release()
    return result


def without_waiting(op: Operator, input: Any) -> Any:
    """Call an operator in a place that cannot await.

    Raises:
        JitError: if the operator has to be awaited.
    """
    result = op(input)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise JitError(
            f"{shown(op)} is async, and is called while JAX traces or transforms a function, which cannot "
            "await it. Call it outside, and pass its result in as an array; or use a HybridOperator, which "
            "keeps the two apart."
        )
    return result


class ChainOperator(Operator):
    """Call operators in sequence, each with the output of the one before.

    Attributes:
        steps: The operators, in order, at least one.

    Raises:
        TypeError: immediately, if a step is not an operator.

    Example:
        >>> from mahsm.operators import ChainOperator, op
        >>> ChainOperator([op(lambda x: x + 1), op(lambda x: x * 2)])(5)
        12
    """

    steps: list[Operator]

    def __check_init__(self) -> None:
        check_operators("ChainOperator", "steps", self.steps)

    def forward(self, input: Any, /) -> Any:
        if self.awaits and not traced():
            return blocking(partial(self.aforward, input), awaits=True)
        for step in self.steps:
            input = without_waiting(step, input)
        return input

    async def aforward(self, input: Any, /) -> Any:
        for step in self.steps:
            input = await step.acall(input)
        return input

    @property
    def awaits(self) -> bool:
        return any(step.awaits for step in self.steps)
