"""Reducers that take entries one by one, and may be decided early, so that a `vmap` can stop."""

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
        """Return the state before the first of `total` values."""
        ...

    def add(self, state: Any, value: Any) -> Any:
        """Return the state with one more value."""
        ...

    def decided(self, state: Any) -> bool:
        """Return whether no further value can change the result."""
        ...

    def result(self, state: Any) -> Any:
        """Return the reduced value."""
        ...


StopWhen: TypeAlias = Callable[[list[Any]], object] | Reducer
"""A reducer that can be decided early, such as `majority_vote`; or a function that returns whether the
entries so far, in the order in which they came, are enough."""

_streams: dict[Any, Callable[..., Reducer]] = {}


def streams_as(make: Callable[..., Reducer]) -> Callable[[FunctionT], FunctionT]:
    """Register the streaming form of a reducer function: `make` returns it, given the function's options."""

    def register(function: FunctionT) -> FunctionT:
        _streams[function] = make
        return function

    return register


def streamed(reducer: Any) -> Reducer | None:
    """Return the streaming form of a reducer, if it has one; a function with options is a partial."""
    if isinstance(reducer, Reducer):
        return reducer
    function, options = (reducer.func, reducer.keywords) if isinstance(reducer, partial) else (reducer, {})
    make = _streams.get(function)
    return None if make is None else make(**options)


class _Enough:
    """The streaming form of a plain function: its state is the list of entries so far."""

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
    """Return a function that takes the entries of `total` items one by one, and returns whether to stop.

    It may be called from any thread.
    """
    reducer = streamed(stop_when) or _Enough(stop_when)
    state = reducer.init(total)
    lock = threading.Lock()

    def add(entry: Any) -> bool:
        nonlocal state
        with lock:
            state = reducer.add(state, entry)
            return reducer.decided(state)

    return add
