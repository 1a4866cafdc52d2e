"""Reading LangGraph states of any schema."""

import dataclasses
import reprlib
import sys
from collections.abc import ItemsView, Iterable, KeysView, Mapping, Set
from types import MappingProxyType
from typing import Any, cast

from mahsm._common.redact import redacted
from mahsm._common.types import State
from mahsm.errors import MissingKeyError, StateError


def as_dict(state: object) -> State:
    """Return a state, which is a mapping, dataclass or pydantic model, as a dict. Values are not copied.

    Raises:
        StateError: if `state` has any other type.
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
    dspy: Any = sys.modules.get("dspy")
    if dspy is not None and isinstance(state, dspy.Example):  # a prediction
        return dict(cast("Any", state).items())
    raise StateError(
        f"the state is {shown(state)}, of type {type(state).__name__}; expected a dict, a dataclass or a "
        "pydantic model. Return one of these from the node before, or give the graph such a state schema."
    )


def read(state: State, key: str, reader: str, argument: str) -> Any:
    """Return `state[key]`.

    Raises:
        MissingKeyError: if the key is missing; it names the reader and the keys of the state.
    """
    try:
        return state[key]
    except KeyError:
        raise MissingKeyError(f"{reader}: {missing(state, key)} {_next_step(state, key, argument)}") from None


def missing(values: Mapping[str, Any], key: str, what: str = "state") -> str:
    """Return an error message for a missing key, with the keys that exist."""
    there = ", ".join(repr(name) for name in values) or "no keys at all"
    return f"{what} has no key {key!r}; it has {there}."


def batch(value: Any, reader: str, key: str, argument: str) -> list[Any]:
    """Return the items of the batch under a state key as a list.

    Raises:
        StateError: if the value is not a batch; see `batch_of`.
    """
    hints = {
        "none": f"Let the node before write {key!r}; an empty list is fine.",
        "text": f"Wrap it in a list: [{key}], or name another {argument}.",
    }
    return batch_of(value, reader, f"state[{key!r}]", key, hints)


def batch_of(
    value: Any, reader: str, what: str, name: str = "items", hints: Mapping[str, str] = MappingProxyType({})
) -> list[Any]:
    """Return the items of a batch as a list.

    Args:
        value: The batch: a list, tuple, generator, array, or view of a dict.
        reader: Name of the edge or node that reads it, for the error.
        what: Source of the batch, for the error.
        name: Name of the batch in suggested code.
        hints: Next steps in the error, by `"none"` for None and `"text"` for strings.

    Raises:
        StateError: if the value is None, a string, bytes, a mapping, a set, or not iterable.
    """
    if isinstance(value, list):
        return list(cast("list[Any]", value))
    kind = type(value).__name__
    # Arrays of shape () have an `__iter__`, which raises.
    scalar = getattr(value, "shape", None) == ()
    if value is None:
        wrong = f"; expected a list of items. {hints.get('none', 'An empty list is fine.')}"
    elif isinstance(value, str | bytes | bytearray):
        wrong = f", of type {kind}; expected a list of items. {hints.get('text', 'Wrap it in a list.')}"
    elif isinstance(value, Mapping):
        wrong = (
            ", a mapping; expected a list of items. Choose one of "
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
    """Return the value's repr without secrets, at most 80 characters, even if its repr is huge or fails."""
    text = redacted(_repr.repr(value))
    return text if len(text) <= _WIDTH else text[: _WIDTH - 3] + "..."


_WIDTH = 80

# Characters from each end of a long string that are searched for secrets. It is far more than is shown,
# because a secret that is cut off may not look like one.
_SEEN = 2000


class _Repr(reprlib.Repr):
    """Masks secrets before a string is shortened, since half of a secret may not look like one."""

    def repr_str(self, x: str, level: int) -> str:
        return super().repr_str(redacted(_ends(x)), level)

    def repr_instance(self, x: Any, level: int) -> str:
        try:
            text = redacted(_ends(repr(x)))
        except Exception:  # noqa: BLE001
            # The repr of the object fails; reprlib shows its type.
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
