"""`chain`: functions one after the other."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mahsm._common import check
from mahsm._waiting import Way
from mahsm.compose._calls import Kind, call, call_as, hints_of, kind_of
from mahsm.compose._function import AwaitedFunction, ComposedFunction, P


class _Chain(ComposedFunction[P, Any]):
    made_by = "chain"
    steps: tuple[Any, ...]
    kinds: tuple[Kind, ...]

    @property
    def first(self) -> Any:
        return self.steps[0]

    @property
    def parts(self) -> tuple[Any, ...]:
        return self.steps

    @property
    def returns(self) -> Any:
        last = self.steps[-1]
        return last.returns if isinstance(last, ComposedFunction) else hints_of(last).get("return")

    def described(self) -> str | None:
        return f"Call {', then '.join(kind.name for kind in self.kinds)}."

    async def run(self, way: Way, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = await call_as(way, self.steps[0], self.kinds[0], args, kwargs)
        for step, kind in zip(self.steps[1:], self.kinds[1:], strict=True):
            value = await call_as(way, step, kind, (value,), {})
        return value

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        steps, kinds = self.steps, self.kinds
        value = call(steps[0], kinds[0], args, kwargs)
        for step, kind in zip(steps[1:], kinds[1:], strict=True):
            value = call(step, kind, (value,), _NONE)
        return value


class _AwaitedChain(AwaitedFunction[P, Any], _Chain[P]):
    pass


_NONE: dict[str, Any] = {}


@check.arguments()
def chain(first: Callable[P, Any], /, *more: Callable[..., Any]) -> ComposedFunction[P, Any]:
    """Call functions one after the other, each with the result of the one before.

    The first one gets the arguments of the call. If a function has several required parameters, and the one
    before returns a dict or a model, its arguments are the fields of that. If one of them is an async
    function, so is the chain.

    Args:
        first: A function, sync or async, an operator, or a DSPy module.
        more: Those that follow.

    Raises:
        TypeError: immediately, if one of them cannot be called.

    Example:
        >>> from mahsm import chain
        >>> chain(str.strip, str.upper, len)("  token ")
        5
    """
    steps = (first, *more)
    kinds = tuple(kind_of("chain", step) for step in steps)
    kind = replace(
        kinds[0],
        name="chain",
        is_async=any(each.is_async for each in kinds),
        awaits=any(each.awaits for each in kinds),
    )
    return (_AwaitedChain if kind.is_async else _Chain)(kind=kind, steps=steps, kinds=kinds)
