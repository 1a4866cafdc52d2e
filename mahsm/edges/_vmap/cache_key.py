"""Keys of caches: equal values have equal keys, in every process.

A pickle cannot be the key: it depends on the order of a dict's keys, on which parts are the same object, and
on the hash seed. So a value is encoded part by part, each with its type, and a container as the hash of its
parts. Each object is encoded once, so the time grows with the size of a value, however many parts it shares.
"""

import dataclasses
import hashlib
import pickle
import sys
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from copyreg import dispatch_table
from enum import Enum
from types import FunctionType, MappingProxyType
from typing import Any, cast

from pydantic import BaseModel

_LEAVES: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda _: b"n",
    bool: lambda value: b"b1" if value else b"b0",
    int: lambda value: b"i" + hex(value).encode(),
    float: lambda value: b"f" + repr(value).encode(),
    complex: lambda value: b"j" + repr(value).encode(),
    str: lambda value: b"t" + value.encode("utf-8", "surrogatepass"),
    bytes: lambda value: b"y" + value,
    bytearray: lambda value: b"y" + bytes(value),
}
_SEQUENCES = (list, tuple)
_MAPPINGS = (dict, OrderedDict, defaultdict, Counter, MappingProxyType)
# Not 5, with which large arrays come as buffers beside the pickle.
_PROTOCOL = 4


def cache_key(value: object) -> str:
    """Return a hash that is the same for equal values.

    Dicts are equal whatever the order of their keys, sets if their elements are equal, and a list equals a
    tuple with equal parts, since LangGraph's checkpoints turn tuples into lists. `1`, `1.0` and `True`
    differ. Arrays are compared by dtype, shape and contents; dataclasses, pydantic models and messages by
    type and fields; enums by type and name; any other object by the state that pickle would store.

    Raises:
        Exception: whatever pickle raises for an object that cannot be pickled, such as a lock.
    """
    try:
        encoded = _Encoder().encode(value)
    except RecursionError:
        # The value contains itself, which pickle can encode.
        encoded = pickle.dumps(value, _PROTOCOL)
    return hashlib.sha256(b"mahsm 1 " + encoded).hexdigest()


class _Encoder:
    """Encodes one value."""

    def __init__(self) -> None:
        # By id. Each object is kept, since its id could otherwise be given to another one.
        self._known: dict[int, tuple[Any, bytes]] = {}

    def encode(self, value: Any) -> bytes:
        leaf = _LEAVES.get(cast("type[Any]", type(value)))
        if leaf is not None:
            return _framed(leaf(value))
        known = self._known.get(id(value))
        if known is None:
            digest = hashlib.sha256(self._parts(value)).digest()
            known = self._known[id(value)] = value, b"h" + digest
        return known[1]

    def _parts(self, value: Any) -> bytes:
        kind = cast("type[Any]", type(value))
        if kind in _SEQUENCES:
            return self._sequence(b"l", value)
        if kind in _MAPPINGS:
            return self._mapping(b"d", value)
        if kind in (set, frozenset):
            return self._set(b"s", value)
        if isinstance(value, Enum):
            is_unnamed = value._name_ is None  # pyright: ignore[reportUnnecessaryComparison]
            return self._sequence(b"e", (_name(kind), value._value_ if is_unnamed else value._name_))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._fields(b"D", kind, (field.name for field in dataclasses.fields(value)), value)
        if isinstance(value, BaseModel):
            fields = self._fields(b"P", kind, kind.model_fields, value)
            return fields + self.encode(value.model_extra)
        return self._array(value) or self._subclass(kind, value) or self._reduced(value)

    def _subclass(self, kind: type[Any], value: Any) -> bytes | None:
        if issubclass(kind, tuple) and hasattr(cast("Any", kind), "_fields"):
            return self._fields(b"N", cast("type", kind), value._fields, value)
        # Pickle stores the elements of these in an order that differs between processes.
        if issubclass(kind, set | frozenset):
            return self._set(b"S", value) + self.encode(
                [_name(cast("type", kind)), getattr(value, "__dict__", None)]
            )
        return None

    def _sequence(self, tag: bytes, parts: Iterable[Any]) -> bytes:
        return tag + b"".join(map(self.encode, parts))

    def _mapping(self, tag: bytes, mapping: Mapping[Any, Any]) -> bytes:
        return tag + b"".join(sorted(self.encode(key) + self.encode(value) for key, value in mapping.items()))

    def _set(self, tag: bytes, elements: Iterable[Any]) -> bytes:
        return tag + b"".join(sorted(map(self.encode, elements)))

    def _fields(self, tag: bytes, kind: type, names: Iterable[str], value: Any) -> bytes:
        return (
            tag
            + self.encode(_name(kind))
            + self._mapping(b"", {name: getattr(value, name, None) for name in names})
        )

    def _array(self, value: Any) -> bytes | None:
        numpy: Any = sys.modules.get("numpy")
        if numpy is None or not (type(value) is numpy.ndarray or isinstance(value, numpy.generic)):
            return None
        if value.dtype.hasobject or value.dtype.names is not None:
            return None
        return self._sequence(b"a", (type(value).__name__, value.dtype.str, value.shape, value.tobytes()))

    def _reduced(self, value: Any) -> bytes:
        """Encode the state that pickle would store of an object."""
        if isinstance(value, type | FunctionType):
            return b"g" + pickle.dumps(value, _PROTOCOL)
        reduce = dispatch_table.get(cast("type[Any]", type(value)))
        reduced: Any = value.__reduce_ex__(_PROTOCOL) if reduce is None else reduce(value)
        if isinstance(reduced, str):
            return b"g" + pickle.dumps(value, _PROTOCOL)
        function, arguments, state, elements, items, *more = (*reduced, *[None] * (5 - len(reduced)))
        pairs = {} if items is None else dict(items)
        return self._sequence(b"o", (function, arguments, state, list(elements or ()), pairs, more))


def _framed(leaf: bytes) -> bytes:
    return len(leaf).to_bytes(8, "big") + leaf


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
