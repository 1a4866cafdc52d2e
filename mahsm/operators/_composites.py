"""Operators made of operators: at once, and one after the other."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx

from mahsm import _tasks
from mahsm.operators._operator import Operator, blocking, check_operators


class EnsembleOperator(Operator):
    """Give one input to several operators, and combine what they give.

    Members that wait, such as models, run at once; those that compute run one after the other, and can be traced by JAX.

    Attributes:
        members: The operators.
        combine: From the list of their results to one; by default the list.

    Example:
        >>> from mahsm.operators import EnsembleOperator, op
        >>> EnsembleOperator([op(lambda x: x + 1), op(lambda x: x * 2)], combine=max)(5)
        10
    """

    members: list[Operator]
    combine: Callable[..., Any] | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        check_operators("EnsembleOperator", "members", self.members)

    def forward(self, input: Any, /) -> Any:
        if self.awaits:
            return blocking(partial(self.aforward, input))
        return self._combined([member(input) for member in self.members])

    async def aforward(self, input: Any, /) -> Any:
        async with _tasks.task_group() as group:
            tasks = [group.create_task(member.acall(input)) for member in self.members]
        return self._combined([task.result() for task in tasks])

    @property
    def awaits(self) -> bool:
        return any(member.awaits for member in self.members)

    def _combined(self, results: list[Any]) -> Any:
        return results if self.combine is None else self.combine(results)


class ChainOperator(Operator):
    """Give each operator what the one before gave.

    Attributes:
        steps: The operators, in their order.

    Example:
        >>> from mahsm.operators import ChainOperator, op
        >>> ChainOperator([op(lambda x: x + 1), op(lambda x: x * 2)])(5)
        12
    """

    steps: list[Operator]

    def __check_init__(self) -> None:
        check_operators("ChainOperator", "steps", self.steps)

    def forward(self, input: Any, /) -> Any:
        if self.awaits:
            return blocking(partial(self.aforward, input))
        for step in self.steps:
            input = step(input)
        return input

    async def aforward(self, input: Any, /) -> Any:
        for step in self.steps:
            input = await step.acall(input) if step.awaits else step(input)
        return input

    @property
    def awaits(self) -> bool:
        return any(step.awaits for step in self.steps)
