"""Reading a LangGraph state, whatever its schema is."""

import dataclasses
import reprlib
from collections.abc import ItemsView, Iterable, KeysView, Mapping, Set
from types import MappingProxyType
from typing import Any, cast

from mahsm._common.redact import redacted
from mahsm._common.types import State
from mahsm.errors import MissingKeyError, StateError


def as_dict(state: object) -> State:
    """The keys and values of a state: a mapping, a dataclass or a pydantic model. Values are not copied.

    Raises:
        StateError: if `state` is none of these.
    """
    if isinstance(state, Mapping):
        return dict(cast("Mapping[str, Any]", state))
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        return {
            field.name: getattr(state, field.name)
            for field in dataclasses.fields(state)
            if hasattr(state, field.name)
        }
    names = getattr(type(state), "model_fields", None)
    if isinstance(names, Mapping):
        return {name: getattr(state, name) for name in cast("Mapping[str, object]", names)}
    raise StateError(
        f"the state is {shown(state)}, of type {type(state).__name__}; expected a dict, a dataclass or a "
        "pydantic model. Return one of these from the node before, or give the graph such a state schema."
    )


def read(state: State, key: str, reader: str, argument: str) -> Any:
    """`state[key]`, or an error that says who reads it, and which keys there are.

    Raises:
        MissingKeyError: if the key is not there.
    """
    try:
        return state[key]
    except KeyError:
        raise MissingKeyError(f"{reader}: {missing(state, key)} {_next_step(state, key, argument)}") from None


def missing(values: Mapping[str, Any], key: str, what: str = "state") -> str:
    """Say that a key is missing and which keys there are."""
    there = ", ".join(repr(name) for name in values) or "no keys at all"
    return f"{what} has no key {key!r}; it has {there}."


def batch(value: Any, reader: str, key: str, argument: str) -> list[Any]:
    """The items of a batch that stands under a key of the state, as a list.

    Raises:
        StateError: for what is no batch; see `batch_of`.
    """
    hints = {
        "none": f"Let the node before write {key!r}; an empty list is fine.",
        "text": f"Wrap it in a list: [{key}], or name another {argument}.",
    }
    return batch_of(value, reader, f"state[{key!r}]", key, hints)


def batch_of(
    value: Any, reader: str, what: str, name: str = "items", hints: Mapping[str, str] = MappingProxyType({})
) -> list[Any]:
    """The items of a batch as a list: of a list, tuple, generator, array, or a view of a dict.

    Args:
        value: The batch.
        reader: Who wants it, for the error.
        what: What gave it.
        name: What to call it in a proposal.
        hints: Next steps for what is None, or a text.

    Raises:
        StateError: for what is no batch: None, a string, bytes, a mapping, a set, or what cannot be iterated.
    """
    if isinstance(value, list):
        return list(cast("list[Any]", value))
    kind = type(value).__name__
    scalar = getattr(value, "shape", None) == ()  # an array of no dimensions
    if value is None:
        wrong = f"; expected a list of items. {hints.get('none', 'An empty list is fine.')}"
    elif isinstance(value, str | bytes | bytearray):
        wrong = f", one {kind}; expected a list of items. {hints.get('text', 'Wrap it in a list.')}"
    elif isinstance(value, Mapping):
        wrong = (
            ", a mapping; expected a list of items. Say which part is meant: "
            f"list({name}.values()), list({name}.items()) or list({name})."
        )
    elif isinstance(value, Set) and not isinstance(value, KeysView | ItemsView):
        wrong = f", a set, whose order changes from process to process; expected a list. Use sorted({name})."
    elif not isinstance(value, Iterable) or scalar:
        wrong = f", of type {kind}, which has no items; expected a list."
    else:
        return list(cast("Iterable[Any]", value))
    raise StateError(f"{reader}: {what} is {shown(cast('object', value))}{wrong}")


def shown(value: object) -> str:
    """The value's repr without secrets, at most 80 characters, also if it is huge or its repr fails."""
    text = redacted(_repr.repr(value))
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


_WIDTH = 80
# Of the beginning and the end of a long text: of less than is shown a secret may not look like one.
_SEEN = 2000


class _Repr(reprlib.Repr):
    """Masks secrets before a text is shortened, which might leave half of one."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redacted(_ends(x)), level)

    def repr_instance(self, x: Any, level: int) -> str:
        try:
            text = redacted(_ends(repr(x)))
        except Exception:  # noqa: BLE001  of a repr that fails
            return super().repr_instance(x, level)
        if len(text) <= self.maxother:
            return text
        half = (self.maxother - 3) // 2
        return f"{text[:half]}...{text[-half:]}"


def _ends(text: str) -> str:
    return text if len(text) <= 2 * _SEEN else text[:_SEEN] + text[-_SEEN:]


_repr = _Repr()
_repr.maxstring = _repr.maxother = _WIDTH


def _next_step(state: State, key: str, argument: str) -> str:
    lists = [name for name, value in state.items() if isinstance(value, list | tuple)]
    if lists:
        return f"Pass {argument}={lists[0]!r}, or let the node before write {key!r}."
    return f"Let the node before write {key!r}, or pass another {argument}."
