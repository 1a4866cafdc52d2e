"""The dynamic and the static parts of a value.

Arrays, floats and integers are dynamic: they enter a compiled function as its arguments, the *leaves*.
Booleans, strings, None and enums are static: a function is compiled for each of their values. Containers are
taken apart. The *part* of a value is the value without its leaves; values with equal parts and with leaves of
equal shapes share one compilation.
"""

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, cast

import numpy as np

from mahsm._common import shown, tagged
from mahsm.errors import StateError

Leaf = Any
"""An array, a float, an integer or a complex number."""


class Part:
    """A value without its leaves. Parts of one class with equal tags are equal.

    Args:
        tag: A hashable value that identifies the part.
        leaves: The number of leaves that it takes.
    """

    __slots__ = ("_hash", "leaves", "tag")

    def __init__(self, tag: Hashable, leaves: int) -> None:
        self.tag: Hashable = tag
        self.leaves: int = leaves
        self._hash = hash((type(self), tag))

    def build(self, leaves: Iterator[Leaf]) -> Any:
        """Rebuild the value with the next of these leaves."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and self.tag == cast("Part", other).tag)

    def __hash__(self) -> int:
        return self._hash


class _Leaf(Part):
    def build(self, leaves: Iterator[Leaf]) -> Any:
        return next(leaves)

    def __repr__(self) -> str:
        return "dynamic"


LEAF = _Leaf(None, 1)


class Static(Part):
    """A static value; each one has a compilation of its own."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        super().__init__(tagged(value), 0)
        self.value = value

    def build(self, leaves: Iterator[Leaf]) -> Any:
        return self.value

    def __repr__(self) -> str:
        return f"static {shown(self.value)}"


class _Dict(Part):
    __slots__ = ("_parts",)

    def __init__(self, parts: Mapping[Any, Part]) -> None:
        plain = set(map(type, parts)) <= {str}
        super().__init__(
            (*(parts if plain else map(tagged, parts)), _tag_of(list(parts.values()))), _count(parts.values())
        )
        self._parts = parts

    def build(self, leaves: Iterator[Leaf]) -> Any:
        return {key: part.build(leaves) for key, part in self._parts.items()}

    def __repr__(self) -> str:
        return repr(self._parts)


class _Sequence(Part):
    __slots__ = ("_kind", "_parts")

    def __init__(self, kind: type[Any], parts: Sequence[Part]) -> None:
        super().__init__((kind, _tag_of(parts)), _count(parts))
        self._kind, self._parts = kind, parts

    def build(self, leaves: Iterator[Leaf]) -> Any:
        return self._kind(part.build(leaves) for part in self._parts)

    def __repr__(self) -> str:
        return repr(self._parts)


class _Tree(Part):
    """An Equinox module, a named tuple, or another class that is a pytree for JAX."""

    __slots__ = ("_parts", "_treedef")

    def __init__(self, treedef: Any, parts: Sequence[Part]) -> None:
        super().__init__((tag_of_tree(treedef), *parts), _count(parts))
        self._treedef, self._parts = treedef, parts

    def build(self, leaves: Iterator[Leaf]) -> Any:
        return self._treedef.unflatten([part.build(leaves) for part in self._parts])

    def __repr__(self) -> str:
        return str(self._treedef)


def _tag_of(parts: Sequence[Part]) -> Hashable:
    """Return a tag of parts: only their number if all are leaves, since that is compared fast."""
    return len(parts) if parts.count(LEAF) == len(parts) else tuple(parts)


def _count(parts: Iterable[Part]) -> int:
    return sum(part.leaves for part in parts)


def tag_of_tree(treedef: Any) -> Hashable:
    """Return a hashable tag of a tree's structure, with its static values as `tagged` returns them."""
    data: Any = treedef.node_data()
    return None if data is None else (data[0], tagged(data[1]), *map(tag_of_tree, treedef.children()))


class Values:
    """Takes values apart into leaves and parts.

    Args:
        x64: If True, numbers keep 64 bits. If False, floats are rounded to 32 bits, and integers that do not
            fit 32 bits raise an error.

    Attributes:
        rules: Functions that take values of common types apart, by type.
    """

    def __init__(self, *, x64: bool) -> None:
        self._x64 = x64
        self._ints = np.iinfo(np.int64 if x64 else np.int32)
        self._casts: dict[np.dtype[Any], Callable[[Any, str], Any] | None] = {}
        self.rules: dict[type[Any], Callable[[Any, list[Leaf], str], Part]] = {
            np.ndarray: self._array_leaf,
            float: self._float,
            int: self._int,
            bool: _static,
            str: _static,
            bytes: _static,
            type(None): _static,
            list: self._sequence,
            tuple: self._sequence,
            dict: self._dict,
            complex: self._complex,
        }

    def flatten(self, value: Any, leaves: list[Leaf], where: str) -> Part:
        """Append the leaves of a value to a list, and return its part.

        Args:
            value: The value.
            leaves: The list of leaves.
            where: The name of the value in errors, such as `state['x']`.

        Raises:
            StateError: if JAX cannot compute with the value, or if a number does not fit.
        """
        kind = cast("type[Any]", type(value))
        return self.rules.get(kind, self._other)(value, leaves, where)

    def static(self, value: Any, where: str) -> Part:
        """Return the part of a value that was declared as static.

        Raises:
            StateError: if the value cannot be hashed.
        """
        try:
            return Static(value)
        except TypeError as error:
            raise StateError(
                f"{where} is {shown(value)}, which cannot be hashed ({error}); expected a static value that "
                "can be compared. Make it a tuple, a string or a frozen dataclass."
            ) from None

    def array(self, value: Any, where: str) -> Any:
        """Return an array converted to a dtype that JAX computes with.

        Raises:
            StateError: if the dtype is not numeric, or if a number does not fit.
        """
        leaves: list[Leaf] = []
        self._array_leaf(value, leaves, where)
        return leaves[0]

    def _array_leaf(self, value: Any, leaves: list[Leaf], where: str) -> Part:
        dtype = value.dtype
        try:
            cast = self._casts[dtype]
        except KeyError:
            cast = self._casts[dtype] = self._cast_of(dtype, value, where)
        leaves.append(value if cast is None else cast(value, where))
        return LEAF

    def _cast_of(self, dtype: np.dtype[Any], value: Any, where: str) -> Callable[[Any, str], Any] | None:
        if dtype.kind not in "biufc" and dtype.type.__module__ != "ml_dtypes":
            raise StateError(
                f"{where} is an array of dtype {dtype}, {shown(value)}; expected numbers or booleans. "
                "Convert it to numbers in the previous node."
            )
        if not dtype.isnative:
            return lambda array, where: self.array(array.astype(dtype.newbyteorder("=")), where)
        widest = (
            np.dtype(f"{dtype.kind}{(2 if dtype.kind == 'c' else 1) * (8 if self._x64 else 4)}")
            if dtype.kind in "iufc"
            else dtype
        )
        if dtype.itemsize <= widest.itemsize:
            return None
        return _narrow_ints(widest) if dtype.kind in "iu" else _narrow_floats(widest)

    def _float(self, value: float, leaves: list[Leaf], where: str) -> Part:
        if not self._x64 and abs(value) > _MOST_FLOAT32 and abs(value) != float("inf"):
            raise StateError(
                f"{where} is {value!r}, which does not fit float32. Pass x64=True to compute in 64 bits."
            )
        leaves.append(value)
        return LEAF

    def _int(self, value: int, leaves: list[Leaf], where: str) -> Part:
        if not self._ints.min <= value <= self._ints.max:
            raise StateError(
                f"{where} is {value!r}, which does not fit {self._ints.dtype}. {self._wider('a float')}"
            )
        leaves.append(value)
        return LEAF

    def _wider(self, otherwise: str) -> str:
        return f"Pass {otherwise}." if self._x64 else f"Pass x64=True to compute in 64 bits, or {otherwise}."

    def _complex(self, value: complex, leaves: list[Leaf], where: str) -> Part:
        for part in (value.real, value.imag):
            self._float(part, [], where)
        leaves.append(value)
        return LEAF

    def _sequence(self, value: Sequence[Any], leaves: list[Leaf], where: str) -> Part:
        if not value:
            leaves.append(np.zeros(0, np.float64 if self._x64 else np.float32))
            return LEAF
        if (isinstance(value[0], _NUMERIC) or hasattr(value[0], "dtype")) and not isinstance(value[0], Enum):
            try:
                array = np.asarray(value)
            except (ValueError, TypeError):  # rows of different lengths, or random keys
                array = None
            if array is not None and array.dtype.kind in "biufc":
                if not is_exact(array):
                    self._refuse_large(value, where)
                leaves.append(self.array(array, where))
                return LEAF
        return _Sequence(type(value), self._entries(value, range(len(value)), leaves, where))

    def _refuse_large(self, value: Any, where: str) -> None:
        """Raise an error for an integer beyond 63 bits in a list that NumPy converts to floats."""
        if isinstance(value, list | tuple):
            for index, entry in enumerate(cast("Sequence[Any]", value)):
                self._refuse_large(entry, f"{where}[{index}]")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            self._int(int(value), [], where)

    def _dict(self, value: dict[Any, Any], leaves: list[Leaf], where: str) -> Part:
        return _Dict(dict(zip(value, self._entries(value.values(), value, leaves, where), strict=True)))

    def _entries(
        self, values: Iterable[Any], keys: Iterable[Any], leaves: list[Leaf], where: str
    ) -> list[Part]:
        """Return the parts of a container's entries. Their names are made only for an error."""
        get, other = self.rules.get, self._other
        try:
            return [get(cast("type[Any]", type(value)), other)(value, leaves, where) for value in values]
        except StateError:
            for key, value in zip(keys, values, strict=True):
                self.flatten(value, [], f"{where}[{key!r}]")
            # Not reached: `flatten` has raised for one of the entries.
            raise

    def _other(self, value: Any, leaves: list[Leaf], where: str) -> Part:
        found = self._leaf(value, leaves, where)
        if found is not None:
            return found
        # A program that has such a value has imported JAX.
        jax: Any = sys.modules.get("jax")
        if jax is not None:
            entries, treedef = jax.tree_util.tree_flatten_with_path(value)
            if len(entries) != 1 or entries[0][1] is not value:
                return self._tree(entries, treedef, leaves, where)
        raise StateError(
            f"{where} is {shown(value)}, of type {type(value).__name__}; expected a number, an array, a "
            "string or a container of these. Convert it to numbers in the previous node, or name the key in "
            "static_keys to compile for each of its values."
        )

    def _tree(self, entries: Sequence[Any], treedef: Any, leaves: list[Leaf], where: str) -> Part:
        jax: Any = sys.modules["jax"]
        parts: list[Part] = []
        for path, entry in entries:
            name = f"{where}{jax.tree_util.keystr(path)}"
            found = self._leaf(entry, leaves, name)
            parts.append(
                self.static(entry, name)
                if found is None and callable(entry)
                else found or _opaque(entry, name)
            )
        try:
            return _Tree(treedef, parts)
        except TypeError as error:
            raise StateError(
                f"{where} is {shown(treedef)}, with a static field that cannot be hashed: {error}."
            ) from None

    def _leaf(self, value: Any, leaves: list[Leaf], where: str) -> Part | None:
        """Return the part of a number, an array or a static value; None for other types."""
        if isinstance(value, bool | str | bytes | None | Enum):
            return Static(value)
        if isinstance(value, np.ndarray | np.generic):
            return self._array_leaf(np.asarray(cast("Any", value)), leaves, where)
        if isinstance(value, float):
            return self._float(float(value), leaves, where)
        if isinstance(value, int):
            return self._int(int(value), leaves, where)
        if isinstance(value, complex):
            return self._complex(complex(value), leaves, where)
        jax: Any = sys.modules.get("jax")
        if jax is not None and isinstance(value, jax.Array):
            if not self._x64 and not isinstance(value, jax.core.Tracer) and value.dtype in _WIDE:
                return self._array_leaf(np.asarray(value), leaves, where)
            leaves.append(value)
            return LEAF
        return None


_SMALL = 1000
"""The number of entries that are read within some hundred microseconds."""


def is_small(value: Any) -> bool:
    """Return whether a value is small enough to be taken apart on an event loop; stops at a large one."""
    return _room_after(value, _SMALL) >= 0


def _room_after(value: Any, room: int) -> int:
    if isinstance(value, dict):
        value = list(cast("dict[Any, Any]", value).values())
    if not isinstance(value, list | tuple):
        size: Any = getattr(value, "size", 1)
        return room - 1 - (size // _SMALL if isinstance(size, int) else 0)
    room -= len(cast("Sequence[Any]", value))
    for entry in cast("Sequence[Any]", value):
        if room < 0:
            break
        if not isinstance(entry, float | int):
            room = _room_after(entry, room)
    return room


def is_exact(array: Any) -> bool:
    """Return whether an array made from a list cannot have integers beyond 63 bits that became floats."""
    return array.dtype.kind not in "fc" or not bool((np.abs(array) >= 2.0**63).any())


def _static(value: Any, leaves: list[Leaf], where: str) -> Part:
    return Static(value)


def _opaque(value: Any, where: str) -> Part:
    raise StateError(
        f"{where} is {shown(value)}, of type {type(value).__name__}; expected a number, an array or a string."
    )


def _narrow_ints(dtype: np.dtype[Any]) -> Callable[[Any, str], Any]:
    bounds = np.iinfo(dtype)

    def narrow(array: Any, where: str) -> Any:
        if array.size and not (array.min() >= bounds.min and array.max() <= bounds.max):
            wrong = array[(array < bounds.min) | (array > bounds.max)].flat[0] if array.ndim else array[()]
            raise StateError(
                f"{where} holds {wrong}, which does not fit {dtype}. Pass x64=True to compute in 64 bits, or "
                "pass floats."
            )
        return array.astype(dtype)

    return narrow


def _narrow_floats(dtype: np.dtype[Any]) -> Callable[[Any, str], Any]:
    def narrow(array: Any, where: str) -> Any:
        try:
            with np.errstate(over="raise"):
                return array.astype(dtype)
        except FloatingPointError:
            finite = np.abs(array[np.isfinite(array)])
            wide = dtype.itemsize > (8 if dtype.kind == "c" else 4)
            fix = "Scale it in the previous node" if wide else "Pass x64=True to compute in 64 bits"
            raise StateError(f"{where} holds {finite.max()!s}, which does not fit {dtype}. {fix}.") from None

    return narrow


_MOST_FLOAT32 = float(np.finfo(np.float32).max)
_WIDE = frozenset(np.dtype(name) for name in ("int64", "uint64", "float64", "complex128"))
_NUMERIC = (int, float, complex, np.ndarray, np.generic, list, tuple)
