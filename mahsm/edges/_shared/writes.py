"""Writes of an edge to the parent's state, with several values of one key joined into one where possible.

LangGraph shows a node's update as a dict of keys, but as a list of dicts if the node writes a key several
times, as an edge does whose items or branches each write it. For known reducers and plain values, reducing
the values one after the other gives the same as reducing all of them joined; then an edge writes one dict,
like any other node.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from langchain_core.messages import BaseMessage, RemoveMessage
from langgraph.graph.message import add_messages
from langgraph.types import Command

from mahsm._common import State
from mahsm.edges._shared.edge import StateReducer

Join = Callable[[list[Any]], Any]
"""Joins the values that are written to a key."""


def update_of(
    writes: Sequence[tuple[str, Any]], reducers: Mapping[str, StateReducer], state: State
) -> State | Command[Any]:
    """Return writes as an update of the parent's state: a dict, unless a key has to be written several times.

    Args:
        writes: Keys and values, in order.
        reducers: The parent state's reducers, by key.
        state: The parent's state.
    """
    values: dict[str, list[Any]] = {}
    for key, value in writes:
        values.setdefault(key, []).append(value)
    update: State = {}
    for key, found in values.items():
        join = _first if len(found) == 1 else _join(reducers.get(key), state.get(key), found)
        if join is None:
            return Command(update=list(writes))
        update[key] = join(found)
    return update


def _join(reducer: StateReducer | None, before: object, values: list[Any]) -> Join | None:
    """Return a function that joins values, if the reducer gives the same for the joined value.

    That is known for some reducers, if all values have the type of the present value; otherwise return None.
    """
    kind = type(before)
    if any(type(value) is not kind for value in values):
        return None
    if reducer is add_messages:
        return _chained if kind is list and all(map(_is_plain_message, chain.from_iterable(values))) else None
    if reducer is operator.add:
        return _ADDED.get(kind)
    return _UNITED.get(kind) if reducer is operator.or_ else None


def _is_plain_message(value: Any) -> bool:
    """Return whether a value is a message that is added, or that replaces one."""
    return isinstance(value, BaseMessage) and not isinstance(value, RemoveMessage)


def _first(values: list[Any]) -> Any:
    return values[0]


def _chained(values: list[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(values))


def _chained_tuples(values: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(chain.from_iterable(values))


def _merged(values: list[dict[Any, Any]]) -> dict[Any, Any]:
    return {key: value for one in values for key, value in one.items()}


def _united(values: list[set[Any]]) -> set[Any]:
    return set[Any]().union(*values)


_ADDED: Mapping[type, Join] = {list: _chained, tuple: _chained_tuples, str: "".join, int: sum}
_UNITED: Mapping[type, Join] = {dict: _merged, set: _united}
