"""Operators made of operators: side by side, and one after the other."""

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
    """Give one input to several operators, side by side, and combine what they give.

    Members that can be awaited, such as models, are; those that block run in threads of their own, in the
    caller's context. While JAX traces, they run one after the other. The first error of a member comes out,
    and the others are cancelled; a blocking call that is in progress is left to run on.

    Attributes:
        members: The operators, at least one.
        combine: From the list of their results, in the order of the members, to one; by default the list.
        max_concurrency: How many members run at any moment, at least 1; by default all.

    Raises:
        TypeError: immediately, for members that are not operators.
        ValueError: immediately, for a `max_concurrency` below 1.

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
    free.release()  # not after an error, or the next one would begin before it is cancelled
    return result


def without_waiting(op: Operator, input: Any) -> Any:
    """Call an operator where nothing can be awaited.

    Raises:
        JitError: if it has to be awaited.
    """
    result = op(input)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise JitError(
            f"{shown(op)} is async, and is called while JAX traces or transforms a function, which cannot "
            "wait. Call it outside, and hand its result in as an array; or use a HybridOperator, which keeps "
            "the two apart."
        )
    return result


class ChainOperator(Operator):
    """Give each operator what the one before gave.

    Attributes:
        steps: The operators, in their order, at least one.

    Raises:
        TypeError: immediately, for steps that are not operators.

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
