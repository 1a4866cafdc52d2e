"""Reducers that take entries one by one, and may be decided early: then a `vmap` can stop."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


@runtime_checkable
class Reducer(Protocol):
    """A reducer that takes values one by one, such as one of your own for `reduce_edge` and `stop_when`.

    Example:
        >>> class Total:
        ...     def init(self, total):
        ...         return 0
        ...     def add(self, state, value):
        ...         return state + value
        ...     def decided(self, state):
        ...         return state >= 10
        ...     def result(self, state):
        ...         return state
        >>> from mahsm import reduce_edge, vmap
        >>> reduce_edge(input_key="xs", output_key="total", reducer=Total()).invoke({"xs": [1, 2, 3]})
        {'total': 6}
        >>> same = lambda state: state["item"]
        >>> edge = vmap(same, batch_key="xs", out_key="ys", stop_when=Total(), max_concurrency=1)
        >>> edge.invoke({"xs": [6, 6, 6]})
        {'ys': [6, 6]}
    """

    def init(self, total: int) -> Any:
        """The state before the first of `total` values."""
        ...

    def add(self, state: Any, value: Any) -> Any:
        """The state with one more value."""
        ...

    def decided(self, state: Any) -> bool:
        """Whether no further value can change the result."""
        ...

    def result(self, state: Any) -> Any:
        """What comes of the values."""
        ...


StopWhen: TypeAlias = Callable[[list[Any]], object] | Reducer
"""A reducer that can be decided early, as `majority_vote`; or a function of the entries so far, in the order
in which they came, that says whether they are enough."""

_streams: dict[Any, Callable[..., Reducer]] = {}


def streams_as(make: Callable[..., Reducer]) -> Callable[[FunctionT], FunctionT]:
    """Says of a function how it works value by value: `make` takes its options."""

    def register(function: FunctionT) -> FunctionT:
        _streams[function] = make
        return function

    return register


def streamed(reducer: Any) -> Reducer | None:
    """A reducer that works value by value, of one that can; a function with options is a partial."""
    if isinstance(reducer, Reducer):
        return reducer
    function, options = (reducer.func, reducer.keywords) if isinstance(reducer, partial) else (reducer, {})
    make = _streams.get(function)
    return None if make is None else make(**options)


class _Enough:
    """All entries so far, for a plain function of them."""

    def __init__(self, function: Callable[[list[Any]], object]) -> None:
        self._function = function

    def init(self, total: int) -> list[Any]:
        return []

    def add(self, state: list[Any], value: Any) -> list[Any]:
        return [*state, value]

    def decided(self, state: list[Any]) -> bool:
        return bool(self._function(list(state)))

    def result(self, state: list[Any]) -> Any:
        return state


def decider(stop_when: Any, total: int) -> Callable[[Any], bool]:
    """What takes the entries of `total` items one by one, from any thread, and says when they are enough."""
    reducer = streamed(stop_when) or _Enough(stop_when)
    state = reducer.init(total)
    lock = threading.Lock()

    def add(entry: Any) -> bool:
        nonlocal state
        with lock:
            state = reducer.add(state, entry)
            return reducer.decided(state)

    return add
