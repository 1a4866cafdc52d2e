"""`HybridOperator`: numbers computed for many inputs at once, and then work for each of them."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from mahsm._jit._jax import jax
from mahsm._jit._outputs import converter
from mahsm._jit._program import Program
from mahsm._jit._spec import JitSpec, Step
from mahsm._jit._values import Values
from mahsm._state import as_dict, read
from mahsm._types import State
from mahsm.operators._operator import Operator
from mahsm.operators._threads import in_thread
from mahsm.operators._trees import Rest, combine, partition


class HybridOperator(Operator):
    """An operator that computes on arrays, or draws random numbers, and also calls models or other functions.

    It says what it computes in `compute`, apart from the rest, so that a `vmap` computes it for all items in one `jax.vmap`,
    and then calls `forward` for each item, with what was computed for it.

    A subclass gives:

    - `compute(self, <names of input fields>, *, key)`: what JAX can trace; `key` is for `jax.random`, if it takes one. Each
      item's is another one, made of the seed and the item's place.
    - `forward(self, input, computed)`: sync or async; `computed` is what `compute` gave, as arrays of NumPy and numbers.

    Attributes:
        seed_key: The input field, and state key, of the seed: a whole number from 0 to 2**32 - 1. Needed if `compute` takes a
            key.
        computed_of: The input fields that `compute` takes.
        draws: Whether it takes a key.

    Example:
        >>> import jax
        >>> from mahsm import vmap
        >>> from mahsm.operators import HybridOperator
        >>> class Explore(HybridOperator):
        ...     arms: tuple[str, ...]
        ...     values: jax.Array
        ...     def compute(self, *, key):
        ...         return jax.random.categorical(key, self.values)
        ...     def forward(self, input, computed):
        ...         return self.arms[computed]
        >>> explore = Explore(("a", "b"), jax.numpy.array([0.0, 100.0]))
        >>> vmap(explore, batch_key="xs", out_key="chosen").invoke({"xs": [1, 2, 3], "seed": 0})
        {'chosen': ['b', 'b', 'b']}
    """

    seed_key: ClassVar[str] = "seed"

    compute: ClassVar[Callable[..., Any]]

    @abstractmethod
    def forward(self, input: Any, computed: Any, /) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """What is done with an input and what was computed of it."""

    computed_of: ClassVar[tuple[str, ...]] = ()
    draws: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "compute" in cls.__dict__:
            names = list(inspect.signature(cls.compute).parameters)[1:]
            cls.draws = "key" in names
            cls.computed_of = tuple(name for name in names if name != "key")

    def __check_init__(self) -> None:
        if not hasattr(type(self), "compute"):
            raise TypeError(f"{type(self).__name__} has no compute; expected a method compute(self, ...) that JAX can trace.")

    def __call__(self, input: Any, *computed: Any, **options: Any) -> Any:
        return Operator.__call__(self, input, *(computed or (_alone(self, input),)), **options)

    async def acall(self, input: Any, *computed: Any, **options: Any) -> Any:
        computed = computed or (await in_thread(partial(_alone, self, input)),)
        return await Operator.acall(self, input, *computed, **options)


class _Compute(eqx.Module):
    """What an operator computes, as a module whose only leaves are the operator's arrays."""

    arrays: Any
    rest: Rest = eqx.field(static=True)

    def __call__(self, **inputs: Any) -> Any:
        return _compute_of(combine(self.arrays, self.rest), inputs)


def computing(op: HybridOperator, names: Callable[[Sequence[str]], Mapping[str, str]], name: str) -> Program:
    """What an operator computes, compiled: from a state to `{"computed": ...}`.

    Args:
        op: The operator.
        names: From input fields to state keys.
        name: The node's name.
    """
    cls = type(op)
    step = Step(
        name=name,
        fn=_Compute(*partition(op)),
        arguments=names(cls.computed_of),
        out_keys=("computed",),
        single=True,
        seed_key=names([cls.seed_key])[cls.seed_key] if cls.draws else None,
    )
    return Program(JitSpec(name=name, steps=(step,), keep=("computed",)))


def _alone(op: HybridOperator, input: Any) -> Any:
    """What is computed for one input."""
    cls, name = type(op), type(op).__name__
    values: State = as_dict(input) if cls.computed_of or cls.draws else {}
    flatten = Values(x64=False).flatten
    inputs: dict[str, Any] = {}
    for field in cls.computed_of:
        leaves: list[Any] = []
        part = flatten(read(values, field, name, "compute"), leaves, f"{name}: input[{field!r}]")
        numbers = [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in leaves]  # Python's would be static
        inputs[field] = part.build(iter(numbers))
    if cls.draws:
        inputs["key"] = jax.random.key(read(values, cls.seed_key, name, "seed_key"))
    found = _compute(op, inputs)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree_util.tree_leaves(found))
    return found if traced else converter(name, "numpy")(found)


@eqx.filter_jit
def _compute(op: Any, inputs: dict[str, Any]) -> Any:
    return _compute_of(op, inputs)


def _compute_of(op: Any, inputs: dict[str, Any]) -> Any:
    kind: Any = op.__class__
    return kind.compute(op, **inputs)
