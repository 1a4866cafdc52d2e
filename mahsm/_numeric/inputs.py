"""Reading a state: its keys, taken apart into leaves and parts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from mahsm._common import read, shown
from mahsm._numeric.ragged import bucket_of, padded
from mahsm._numeric.spec import JitSpec
from mahsm._numeric.values import LEAF, Leaf, Part, Values
from mahsm.errors import StateError


@dataclass(slots=True)
class Inputs:
    """The values of a state, taken apart.

    Attributes:
        parts: The part of each key.
        leaves: The leaves of all keys, then the seeds, then the mask.
        length: The length of the first axis of ragged keys, before padding.
        bucket: Its length after padding.
    """

    parts: tuple[Part, ...]
    leaves: list[Leaf]
    length: int = -1
    bucket: int = -1


_NOTHING: dict[Any, Any] = {}


class StateReader:
    """Takes states apart.

    Args:
        spec: The spec of the program.
        multiple: Ragged axes are padded to a multiple of this number of devices, to be spread over them.
    """

    def __init__(self, spec: JitSpec, multiple: int = 1) -> None:
        self._spec = spec
        self._multiple = multiple
        self._values = Values(x64=spec.x64)
        self._rules = [(key, f"{spec.name}: state[{key!r}]", self._rule(key)) for key in spec.reads]
        self._plain = not spec.ragged and not spec.seeds
        self._dynamic = not spec.static_keys and not spec.ragged

    def _rule(self, key: str) -> Callable[[Any, list[Leaf], str], Part]:
        if key in self._spec.static_keys:
            return lambda value, leaves, where: self._values.static(value, where)
        return self._ragged if key in self._spec.ragged else self._values.flatten

    def part(self, key: str, value: Any, leaves: list[Leaf]) -> Part:
        """Append the leaves of one key's value to a list, without padding, and return its part.

        Raises:
            StateError: if JAX cannot compute with the value.
        """
        _, where, rule = self._rules[self._spec.reads.index(key)]
        return rule(value, leaves, where)

    def column(self, key: str, array: Any) -> Any:
        """Return an array of one key's values in many states, converted for the program.

        Raises:
            StateError: if JAX cannot compute with the array.
        """
        return self._values.array(array, self._rules[self._spec.reads.index(key)][1])

    def read(self, state: Mapping[str, Any]) -> Inputs:
        """Take a state apart.

        Raises:
            MissingKeyError: if a key is missing.
            StateError: if JAX cannot compute with a value.
        """
        leaves: list[Leaf] = []
        parts: list[Part] = []
        usual = self._values.rules if self._dynamic else _NOTHING
        try:
            for key, where, rule in self._rules:
                value = state[key]
                kind = cast("type[Any]", type(value))
                # The same as `flatten`, with one call less.
                parts.append(usual.get(kind, rule)(value, leaves, where))
        except KeyError:
            for key in self._spec.reads:
                read(dict(state), key, self._spec.name, "in_keys")
            raise
        inputs = Inputs(tuple(parts), leaves)
        return inputs if self._plain else self._with_more(inputs, state)

    def _with_more(self, inputs: Inputs, state: Mapping[str, Any]) -> Inputs:
        if self._spec.ragged:
            self.pad(inputs)
        seeds = [
            self.seed(key, read(dict(state), key, self._spec.name, "seed_key")) for key in self._spec.seeds
        ]
        # The mask, if there is one, is the last leaf, and the seeds stand before it. `Compiled.traced` takes
        # them from there without their names.
        at = len(inputs.leaves) - bool(self._spec.ragged)
        inputs.leaves[at:at] = seeds
        return inputs

    def seed(self, key: str, value: Any) -> Any:
        """Return a seed as a leaf.

        Raises:
            StateError: if it is not an integer from 0 to 2**32 - 1.
        """
        seed = (
            int(value)
            if type(value) is int or np.issubdtype(getattr(value, "dtype", float), np.integer)
            else -1
        )
        if not 0 <= seed < 1 << 32:
            raise StateError(
                f"{self._spec.name}: state[{key!r}] is {shown(value)}; expected a seed, an integer from "
                "0 to 2**32 - 1, for the random key."
            )
        return np.uint32(seed)

    def pad(self, inputs: Inputs, fill: int = 0) -> None:
        """Pad the ragged leaves to a common bucket, and append the mask.

        Raises:
            StateError: if their lengths differ.
        """
        places = self._places(inputs)
        lengths = {key: inputs.leaves[place].shape[0] for key, place in places.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{key!r} has {length}" for key, length in lengths.items())
            raise StateError(
                f"{self._spec.name}: the ragged keys differ in length: {found}; expected one length for all."
            )
        inputs.length = next(iter(lengths.values()))
        inputs.bucket = bucket_of(inputs.length, self._multiple)
        for place in places.values():
            inputs.leaves[place] = padded(inputs.leaves[place], inputs.bucket, fill)
        inputs.leaves.append(np.arange(inputs.bucket) < inputs.length)

    def first_rows(self, inputs: Inputs) -> tuple[int, list[Leaf], list[Leaf]]:
        """Return the first rows of the inputs in two buckets, to check that results do not depend on them.

        These are as many rows as fill a smaller bucket, in that bucket and in the present one. If the present
        bucket is the smallest, they are all rows, in that bucket and in the next one.

        Returns:
            The number of rows, and their leaves in both buckets.
        """
        count = min(inputs.length, inputs.bucket // 2)
        own = bucket_of(count, self._multiple)
        sizes = (
            (own, inputs.bucket)
            if own != inputs.bucket
            else (inputs.bucket, bucket_of(2 * inputs.bucket, self._multiple))
        )
        rows = Inputs(inputs.parts, inputs.leaves, count, inputs.bucket)
        return count, self.with_bucket(rows, sizes[0]), self.with_bucket(rows, sizes[1])

    def refilled(self, inputs: Inputs, fill: int) -> list[Leaf]:
        """Return the leaves of padded inputs with another fill value."""
        leaves = list(inputs.leaves)
        for place in self._places(inputs).values():
            leaves[place] = padded(leaves[place][: inputs.length], inputs.bucket, fill)
        return leaves

    def unpadded(self, inputs: Inputs) -> list[Leaf]:
        """Return the leaves of padded inputs without padding."""
        leaves = list(inputs.leaves)
        for place in (*self._places(inputs).values(), -1):
            leaves[place] = leaves[place][: inputs.length]
        return leaves

    def with_bucket(self, inputs: Inputs, bucket: int) -> list[Leaf]:
        """Return the leaves of inputs in another bucket."""
        leaves = list(inputs.leaves)
        for place in self._places(inputs).values():
            leaves[place] = padded(leaves[place][: inputs.length], bucket, 0)
        leaves[-1] = np.arange(bucket) < inputs.length
        return leaves

    def _places(self, inputs: Inputs) -> dict[str, int]:
        """Return the position of the leaf of each ragged key; a ragged key has one leaf."""
        places: dict[str, int] = {}
        at = 0
        for key, part in zip(self._spec.reads, inputs.parts, strict=True):
            if key in self._spec.ragged:
                places[key] = at
            at += part.leaves
        return places

    def _ragged(self, value: Any, leaves: list[Leaf], where: str) -> Part:
        found: list[Leaf] = []
        part = self._values.flatten(value, found, where)
        if part is not LEAF or np.ndim(found[0]) == 0:
            raise StateError(
                f"{where} is {shown(value)}; expected an array or a list of numbers or of equal rows, since "
                "its first axis is padded."
            )
        leaves.append(np.asarray(found[0]))
        return part
