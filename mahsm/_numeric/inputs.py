"""Reading a state: the leaves of the keys that are computed with, and what is between them."""

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
        leaves: The leaves of all of them, then the seeds, then the mask.
        length: What the first axis of ragged keys was.
        bucket: What it is padded to.
    """

    parts: tuple[Part, ...]
    leaves: list[Leaf]
    length: int = -1
    bucket: int = -1


_NOTHING: dict[Any, Any] = {}


class StateReader:
    """Takes states apart.

    Args:
        spec: What is compiled.
        multiple: Ragged axes are padded to a multiple of this, so that they can be spread over as many
            devices.
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
        """Append the leaves of one key's value, not padded, and give back its part.

        Raises:
            StateError: for what cannot be computed with.
        """
        _, where, rule = self._rules[self._spec.reads.index(key)]
        return rule(value, leaves, where)

    def column(self, key: str, array: Any) -> Any:
        """An array of one key's values in many states, as it goes in.

        Raises:
            StateError: for what cannot be computed with.
        """
        return self._values.array(array, self._rules[self._spec.reads.index(key)][1])

    def read(self, state: Mapping[str, Any]) -> Inputs:
        """Take a state apart.

        Raises:
            MissingKeyError: for a key that is not there.
            StateError: for what cannot be computed with.
        """
        leaves: list[Leaf] = []
        parts: list[Part] = []
        usual = self._values.rules if self._dynamic else _NOTHING
        try:
            for key, where, rule in self._rules:
                value = state[key]
                kind = cast("type[Any]", type(value))
                # As `flatten` does, with a call less.
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
        at = len(inputs.leaves) - bool(self._spec.ragged)
        inputs.leaves[at:at] = seeds
        return inputs

    def seed(self, key: str, value: Any) -> Any:
        """A seed, as it goes in.

        Raises:
            StateError: for what is not an integer from 0 to 2**32 - 1.
        """
        seed = (
            int(value)
            if type(value) is int or np.issubdtype(getattr(value, "dtype", float), np.integer)
            else -1
        )
        if not 0 <= seed < 1 << 32:
            raise StateError(
                f"{self._spec.name}: state[{key!r}] is {shown(value)}; expected a seed, an integer from "
                "0 to 2**32 - 1, of which the key for random numbers is made."
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
        """As many of the first rows as fill a bucket of their own, in that bucket and in this one; in the
        smallest bucket, all rows, in it and in the next one.
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
        """The leaves of inputs that were padded, with another filling."""
        leaves = list(inputs.leaves)
        for place in self._places(inputs).values():
            leaves[place] = padded(leaves[place][: inputs.length], inputs.bucket, fill)
        return leaves

    def unpadded(self, inputs: Inputs) -> list[Leaf]:
        """The leaves of inputs that were padded, without padding."""
        leaves = list(inputs.leaves)
        for place in (*self._places(inputs).values(), -1):
            leaves[place] = leaves[place][: inputs.length]
        return leaves

    def with_bucket(self, inputs: Inputs, bucket: int) -> list[Leaf]:
        """The leaves as they would be in another bucket."""
        leaves = list(inputs.leaves)
        for place in self._places(inputs).values():
            leaves[place] = padded(leaves[place][: inputs.length], bucket, 0)
        leaves[-1] = np.arange(bucket) < inputs.length
        return leaves

    def _places(self, inputs: Inputs) -> dict[str, int]:
        """Where the leaves of ragged keys stand; each has one."""
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
                "its first axis is to be padded."
            )
        leaves.append(np.asarray(found[0]))
        return part
