"""The spec of a program: functions that are called in sequence, on keys of a state."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from mahsm._common import cached

Output: TypeAlias = Literal["numpy", "python", "jax"]

BATCH = "batch"
"""The value of `shard` that spreads the items of a batch over a mesh."""


@dataclass(frozen=True)
class Step:
    """One function, and the keys that it reads and writes.

    Attributes:
        name: Its name in errors.
        fn: The function, or a callable module.
        arguments: The state keys of its arguments, in order or by the names of its parameters.
        out_keys: The state keys that it writes.
        single: True if it returns the value of its only out key; False if it returns a value for each key.
        ragged: The arguments whose first axis varies.
        takes_mask: True if it takes `mask`, which is False for padding.
        seed_key: State key of the seed for its `key`.
        named_key: True if its `key` also depends on its name, so that steps with one seed draw different
            numbers.
    """

    name: str
    fn: Callable[..., Any]
    arguments: Sequence[str] | Mapping[str, str]
    out_keys: tuple[str, ...]
    single: bool
    ragged: frozenset[str] = frozenset()
    takes_mask: bool = False
    seed_key: str | None = None
    named_key: bool = True

    @property
    def in_keys(self) -> tuple[str, ...]:
        """The state keys of its arguments."""
        return tuple(self.arguments.values() if isinstance(self.arguments, Mapping) else self.arguments)

    def run(
        self, fn: Callable[..., Any], values: Mapping[str, Any], special: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Call a function in place of `fn`; return the state keys and values that it writes."""
        if isinstance(self.arguments, Mapping):
            given = fn(**{parameter: values[key] for parameter, key in self.arguments.items()}, **special)
        else:
            given = fn(*[values[key] for key in self.arguments], **special)
        if self.single:
            return {self.out_keys[0]: given}
        kind = cast("type[Any]", type(given))
        if kind is dict and all(key in given for key in self.out_keys):
            return {key: given[key] for key in self.out_keys}
        if kind in (tuple, list) and len(given) == len(self.out_keys):
            return dict(zip(self.out_keys, given, strict=True))
        raise TypeError(
            f"{self.name}: the function returned {_kind(given)}; expected {len(self.out_keys)} values, for "
            f"the keys {', '.join(map(repr, self.out_keys))}: a tuple in this order, or a dict with these "
            "keys."
        )


@dataclass(frozen=True)
class JitSpec:
    """The arguments of a `jit_edge`, checked, or of several that are fused.

    Attributes:
        name: The edge's name.
        steps: The functions, in order.
        keep: The state keys of the result.
        static_keys: State keys whose values are static: each value has a compilation.
        device: The device: a platform, such as "gpu" or "cuda:1", a device, or a mesh of devices; None for
            JAX's default.
        shard: State key, or field of a module, whose first axis is spread over the mesh; or "batch".
        x64: True if numbers keep 64 bits.
        output: The types into which arrays of the result are converted.
    """

    name: str
    steps: tuple[Step, ...]
    keep: tuple[str, ...]
    static_keys: frozenset[str] = frozenset()
    device: Any = None
    shard: str | None = None
    x64: bool = False
    output: Output = "numpy"

    @cached
    def identifier(self) -> str:
        """The name in JAX and XLA."""
        return "".join(char if char.isalnum() else "_" for char in self.name)

    @cached
    def reads(self) -> tuple[str, ...]:
        """The state keys of arguments, without those that an earlier step writes."""
        return tuple(
            dict.fromkeys(key for step, written in self._each() for key in step.in_keys if key not in written)
        )

    @property
    def shards_batch(self) -> bool:
        """True if the items of a batch are spread over the mesh."""
        return self.shard == BATCH and BATCH not in self.reads

    @cached
    def ragged(self) -> frozenset[str]:
        """The keys of `reads` whose first axis varies."""
        return frozenset(key for step, written in self._each() for key in step.ragged if key not in written)

    @cached
    def seeds(self) -> tuple[str, ...]:
        """The state keys of seeds."""
        return tuple(dict.fromkeys(step.seed_key for step in self.steps if step.seed_key is not None))

    def _each(self) -> list[tuple[Step, frozenset[str]]]:
        """Return each step with the keys that earlier steps write."""
        found: list[tuple[Step, frozenset[str]]] = []
        written: frozenset[str] = frozenset()
        for step in self.steps:
            found.append((step, written))
            written |= frozenset(step.out_keys)
        return found

    def run(
        self, fns: Sequence[Callable[..., Any]], values: Mapping[str, Any], mask: Any, keys: Mapping[str, Any]
    ) -> Any:
        """Run the steps, with other functions in place of theirs.

        Args:
            fns: A function for each step.
            values: The values of `reads`.
            mask: The mask, False for padding, if a key is ragged.
            keys: A random key for each of `seeds`.

        Returns:
            The values of `keep`.
        """
        known = dict(values)
        for step, fn in zip(self.steps, fns, strict=True):
            special: dict[str, Any] = {"mask": mask} if step.takes_mask else {}
            if step.seed_key is not None:
                key = keys[step.seed_key]
                special["key"] = _folded(key, step.name) if step.named_key else key
            known |= step.run(fn, known, special)
        return {key: known[key] for key in self.keep}


def _folded(key: Any, name: str) -> Any:
    """Return a random key of a step's own, so that steps with one seed draw different numbers."""
    from mahsm._numeric.untyped_jax import jax

    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + (f" of {len(value)}" if hasattr(value, "__len__") else "")
