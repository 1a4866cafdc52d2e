"""Batches: a computation for many states in one call of `jax.vmap`, or in one call for each slice.

JAX compiles for each number of rows. So the states are stacked with copies of the last one, up to one of a
few numbers. A slice is stacked, computed and split before the next one begins, so that besides the inputs and
outputs at most one slice is in memory.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

import numpy as np

from mahsm._common import Overlay, State, read
from mahsm._numeric.batch_result import BatchResult
from mahsm._numeric.compiled import Compiled
from mahsm._numeric.compiler import OTHER_FILLS, Compiler, own
from mahsm._numeric.devices import x64_pinned
from mahsm._numeric.inputs import Inputs
from mahsm._numeric.outputs import begin_fetching, plain
from mahsm._numeric.ragged import check_padding, cut, rows_of
from mahsm._numeric.storms import shape_of
from mahsm._numeric.untyped_jax import jax
from mahsm._numeric.values import LEAF, Leaf, is_exact
from mahsm.errors import EdgeError, StateError


@dataclass
class _Group:
    """States with equal parts and with leaves of equal shapes, which are computed in one call.

    Attributes:
        inputs: The inputs of its first state.
        flags: For each leaf, True if it differs between states.
        columns: For each leaf, the stacked values of all states, or the common value.
        places: The positions of its states in the batch.
        members: The inputs of all its states, unless the group was made without taking them apart.
    """

    inputs: Inputs
    flags: list[bool]
    columns: list[Any]
    places: list[int]
    members: list[Inputs] = field(default_factory=list[Inputs])


class Batch:
    """Many states: a common state, and an overlay for each of them.

    Args:
        compiler: The compiler of the program.
        state: The common state.
        overlays: The overlays, at least one.
        size: The number of states in a slice; None for all.
        output: The only output that is wanted; None for a dict of all outputs.
    """

    def __init__(
        self,
        compiler: Compiler,
        state: State,
        overlays: Sequence[Overlay],
        size: int | None,
        output: str | None,
    ) -> None:
        self._compiler = compiler
        self._devices = compiler.placement.devices if compiler.spec.shards_batch else 1
        self._size = size and -(-size // self._devices) * self._devices
        self._state = state
        self._overlays = overlays
        self._spec = compiler.spec
        self._wanted = (*self._spec.reads, *self._spec.seeds)
        self._output = output
        self._outcomes: list[Any] = [None] * len(overlays)
        self._failed: dict[int, Exception] = {}

    def run(self) -> BatchResult:
        """Compute all states."""
        keys = self._overlays[0].keys()
        if all(overlay.keys() == keys for overlay in self._overlays):
            self._run(self._mapped(self._overlays[0]), range(len(self._overlays)))
        else:
            by_keys: dict[frozenset[str], list[int]] = {}
            for place, overlay in enumerate(self._overlays):
                by_keys.setdefault(self._mapped(overlay), []).append(place)
            for keys, places in by_keys.items():
                self._run(keys, places)
        return BatchResult(self._outcomes, self._failed)

    def _mapped(self, overlay: Overlay) -> frozenset[str]:
        return frozenset(key for key in self._wanted if key in overlay)

    def _run(self, mapped: frozenset[str], places: Sequence[int]) -> None:
        try:
            shared = self._shared(mapped)
        except StateError as error:
            self._fail(places, error)
            return
        size = self._size or len(places)
        if size < len(places):
            for key, inputs in shared.items():
                inputs.leaves = self._compiler.placement.kept(key, inputs.leaves)
        for begin in range(0, len(places), size):
            self._run_slice(mapped, places[begin : begin + size], shared)

    def _run_slice(self, mapped: frozenset[str], places: Sequence[int], shared: Mapping[str, Inputs]) -> None:
        quick = self._quick_group(mapped, places, shared) if not self._spec.ragged else None
        for group in [quick] if quick else self._groups(mapped, places, shared):
            try:
                self._compute(group)
            except Exception as error:  # noqa: BLE001  the caller handles it
                self._fail(group.places, error)

    def _filled(self, rows: Sequence[Any]) -> list[Any]:
        """Return the rows, with copies of the last one up to the number of rows that is compiled for."""
        count = len(rows)
        size = count if count == self._size else rows_of(count, self._devices)
        return [*rows, *[rows[-1]] * (size - count)]

    def _fail(self, places: Sequence[int], error: Exception) -> None:
        for place in places:
            self._outcomes[place] = self._failed[place] = error

    # Taking states apart.

    def _shared(self, mapped: frozenset[str]) -> dict[str, Inputs]:
        """Return the inputs of the keys that all states have in common."""
        if self._spec.shard in mapped:
            raise EdgeError(
                f"{self._spec.name}: shard={self._spec.shard!r} is a key of the items; expected a key that "
                "all items share, or shard='batch', which spreads the items themselves."
            )
        found: dict[str, Inputs] = {}
        for key in self._spec.reads:
            if key in mapped:
                continue
            leaves: list[Leaf] = []
            part = self._compiler.reader.part(key, read(self._state, key, self._spec.name, "in_keys"), leaves)
            if any(_is_random_key(leaf) for leaf in leaves):
                raise StateError(
                    f"{self._spec.name}: state[{key!r}] is a random key, which all items would share, so "
                    "that they draw the same numbers. Pass seed_key= with the state key of a seed: each item "
                    "then gets a key of its own."
                )
            found[key] = Inputs((part,), own(leaves) if self._spec.output == "jax" else leaves)
        return found

    def _quick_group(
        self, mapped: frozenset[str], places: Sequence[int], shared: Mapping[str, Inputs]
    ) -> _Group | None:
        """Return one group of all states, if their values are clearly alike; otherwise None.

        The columns are then stacked without taking each state apart, which is much faster.
        """
        inputs, flags, columns = Inputs((), []), list[bool](), list[Any]()
        for key in self._spec.reads:
            if key in shared:
                inputs.parts += shared[key].parts
                columns += shared[key].leaves
                flags += [False] * len(shared[key].leaves)
                continue
            if key in self._spec.static_keys:
                return None
            column = _stacked(
                self._filled([self._overlays[place][key] for place in places]), x64=self._spec.x64
            )
            if column is None:
                return None
            try:
                columns.append(self._compiler.reader.column(key, column))
            except StateError:
                # `_groups` takes the states apart, and finds the one with the error.
                return None
            inputs.parts += (LEAF,)
            flags.append(True)
        for key in self._spec.seeds:
            if key in mapped:
                return None
            columns.append(self._seed(key, self._state))
            flags.append(False)
        return _Group(inputs, flags, columns, list(places))

    def _groups(
        self, mapped: frozenset[str], places: Sequence[int], shared: Mapping[str, Inputs]
    ) -> list[_Group]:
        groups: dict[Any, _Group] = {}
        ragged = bool(self._spec.ragged & mapped)
        common: Inputs | None = None
        for place in places:
            try:
                inputs = self._taken(place, shared)
                if self._spec.ragged and (ragged or common is None):
                    self._compiler.reader.pad(inputs)
                    common = inputs
                elif self._spec.ragged and common is not None:
                    inputs.length, inputs.bucket = common.length, common.bucket
                    inputs.leaves.append(common.leaves[-1])
                seeds = [
                    self._seed(key, {**self._state, **self._overlays[place]}) for key in self._spec.seeds
                ]
            except StateError as error:
                self._fail([place], error)
                continue
            at = len(inputs.leaves) - bool(self._spec.ragged)
            inputs.leaves[at:at] = seeds
            flags = self._flags(inputs, mapped, ragged=ragged)
            shapes = tuple(shape_of(leaf) for leaf, flag in zip(inputs.leaves, flags, strict=True) if flag)
            group = groups.setdefault((inputs.parts, shapes), _Group(inputs, flags, [], []))
            group.places.append(place)
            group.members.append(inputs)
        for group in groups.values():
            group.columns = self._columns(group, [member.leaves for member in group.members])
        return list(groups.values())

    def _taken(self, place: int, shared: Mapping[str, Inputs]) -> Inputs:
        inputs = Inputs((), [])
        for key in self._spec.reads:
            if key in shared:
                inputs.parts += shared[key].parts
                inputs.leaves += shared[key].leaves
            else:
                inputs.parts += (self._compiler.reader.part(key, self._overlays[place][key], inputs.leaves),)
        return inputs

    def _flags(self, inputs: Inputs, mapped: frozenset[str], *, ragged: bool) -> list[bool]:
        flags: list[bool] = []
        for key, part in zip(self._spec.reads, inputs.parts, strict=True):
            flags += [key in mapped or (ragged and key in self._spec.ragged)] * part.leaves
        flags += [key in mapped for key in self._spec.seeds]
        return [*flags, ragged] if self._spec.ragged else flags

    def _seed(self, key: str, state: Mapping[str, Any]) -> Any:
        return self._compiler.reader.seed(key, read(dict(state), key, self._spec.name, "seed_key"))

    # Computing.

    def _compute(self, group: _Group) -> None:
        compiler, spec = self._compiler, self._spec
        # All values are static, so all states have the same result.
        if not any(group.flags) and not spec.seeds:
            outcome = compiler({**self._state, **self._overlays[group.places[0]]})
            self._keep(
                group, [outcome if self._output is None else outcome[self._output]] * len(group.places)
            )
            return
        flags, columns = list(group.flags), list(group.columns)
        if spec.seeds:
            flags.append(True)
            columns.append(np.array(self._filled(group.places), np.uint32))
        key = ("batch", group.inputs.parts, tuple(flags))

        def compile_for_all() -> Compiled:
            places = self._places(group, flags, columns)
            return Compiled(spec, compiler.modules, group.inputs.parts, flags, places)

        compiled = compiler.compiled(key, compile_for_all, columns)
        outputs = compiler.computed(compiled, columns)
        if spec.ragged:
            self._keep_ragged(group, compiled, outputs, columns)
            return
        if compiler.is_far:
            begin_fetching(outputs)
        self._keep(
            group, self._rows(outputs if self._output is None else outputs[self._output], len(group.places))
        )

    def _keep(self, group: _Group, rows: list[Any]) -> None:
        if len(rows) == len(self._outcomes):
            self._outcomes = rows
        else:
            for place, row in zip(group.places, rows, strict=True):
                self._outcomes[place] = row

    def _columns(self, group: _Group, members: Sequence[Sequence[Leaf]]) -> list[Any]:
        """Return the leaves of all states, stacked if they differ between states."""
        filled = self._filled(members)
        return [
            _column([leaves[at] for leaves in filled], x64=self._spec.x64) if flag else members[0][at]
            for at, flag in enumerate(group.flags)
        ]

    def _places(self, group: _Group, flags: Sequence[bool], columns: Sequence[Any]) -> list[Any] | None:
        if self._spec.shards_batch:
            return self._compiler.placement.of_rows(flags)
        return self._compiler.placement.of_all(self._spec.reads, group.inputs.parts, columns)

    def _rows(self, value: Any, count: int) -> list[Any]:
        """Split an output into the result of each state, as `Program` would return it."""
        kind = cast("type[Any]", type(value))
        if kind is dict:
            # Filled key by key, which is faster than row by row.
            found: list[dict[Any, Any]] = [{} for _ in range(count)]
            for key, entry in value.items():
                for row, member in zip(found, self._rows(entry, count), strict=True):
                    row[key] = member
            return found
        if kind in (tuple, list):
            rows = zip(*[self._rows(entry, count) for entry in value], strict=True)
            return (list(rows) if kind is tuple else list(map(list, rows))) if value else [value] * count
        if hasattr(value, "dtype"):
            return self._split(value, count)
        # `convert` raises an error for other containers, unless the output is "jax".
        leaves, treedef = jax.tree.flatten(self._compiler.convert(value))
        if not leaves:
            return [value] * count
        return [
            treedef.unflatten(row) for row in zip(*[self._split(leaf, count) for leaf in leaves], strict=True)
        ]

    def _split(self, leaf: Any, count: int) -> list[Any]:
        if self._spec.output == "jax":
            return list(leaf[:count])
        array: Any = np.asarray(plain(leaf, self._spec.name))[:count]
        return array.tolist() if array.ndim == 1 or self._spec.output == "python" else list(array)

    def _keep_ragged(self, group: _Group, compiled: Compiled, outputs: Any, columns: list[Any]) -> None:
        with x64_pinned(self._spec.x64):
            axes = compiled.axes(self._compiler.reader, group.inputs)
            found = self._cut(group, outputs, axes)
            if compiled.is_unchecked(group.inputs):
                for fill in OTHER_FILLS:
                    again = [self._compiler.reader.refilled(member, fill) for member in group.members]
                    leaves = self._columns(group, again) + columns[len(group.flags) :]
                    refilled = self._cut(group, self._compiler.computed(compiled, leaves, call=False), axes)
                    check_padding(self._spec.name, found, refilled, exactly=True)
                # A single call also checks another size of the bucket.
                self._compiler({**self._state, **self._overlays[group.places[0]]})
                compiled.checked(group.inputs)
        output, convert = self._output, self._compiler.convert
        if output is not None:
            self._keep(group, [convert(one[output]) for one in found])
        else:
            self._keep(group, [{name: convert(value) for name, value in one.items()} for one in found])

    def _cut(self, group: _Group, outputs: Any, axes: Any) -> list[Any]:
        arrays = jax.tree.map(np.asarray, outputs)

        def of_row(row: int, length: int) -> Any:
            def cut_row(array: Any, where: tuple[int, ...]) -> Any:
                return cut(array[row], where, length)

            return jax.tree.map(cut_row, arrays, axes)

        return [of_row(row, member.length) for row, member in enumerate(group.members)]


def _stacked(column: list[Any], *, x64: bool) -> Any:
    """Return one array of arrays of one shape, of numbers, or of lists of one length; otherwise None."""
    kinds: set[Any] = set(map(type, column))
    if kinds == {np.ndarray}:
        return _joined(column, x64=x64)
    if kinds not in ({float}, {int}, {list}) or (
        kinds == {list} and column[0] and isinstance(column[0][0], Enum)
    ):
        return None
    try:
        array = np.asarray(column)
    except ValueError:
        return None
    return array if array.dtype.kind in "biuf" and is_exact(array) else None


def _joined(arrays: list[Any], *, x64: bool) -> Any:
    """Return stacked arrays, in memory that JAX uses without a copy, and in the precision of the program.

    This takes a third of the time of `np.stack`.
    """
    first = arrays[0]
    if (
        len({array.shape for array in arrays}) > 1
        or len({array.dtype for array in arrays}) > 1
        or not first.dtype.isnative
    ):
        return None
    dtype = np.dtype("f4") if first.dtype == np.float64 and not x64 else first.dtype
    if first.ndim == 0 or dtype.hasobject:
        return np.stack(arrays)
    joined = _aligned((len(arrays) * first.shape[0], *first.shape[1:]), dtype)
    try:
        with np.errstate(over="raise"):
            np.concatenate(arrays, out=joined, casting="same_kind")
    except FloatingPointError:
        # `_groups` takes the states apart, and finds the one with the error.
        return None
    return joined.reshape(len(arrays), *first.shape)


_ALIGNMENT = 64
"""Alignment in bytes with which XLA on the CPU reads memory without a copy."""


def _aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def _column(leaves: Sequence[Leaf], *, x64: bool) -> Any:
    first = leaves[0]
    if isinstance(first, jax.Array):
        return jax.numpy.stack(cast("Any", leaves))
    if hasattr(first, "dtype"):
        return np.stack(leaves)
    bits = 64 if x64 else 32
    return np.array(
        leaves, {float: f"f{bits // 8}", int: f"i{bits // 8}", complex: f"c{bits // 4}"}[type(first)]
    )


def _is_random_key(leaf: Leaf) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
