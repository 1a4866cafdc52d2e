"""`HybridOperator`: a computation on arrays, which edges do in one batch, and then work for each input."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import equinox as eqx

from mahsm._common import State, as_dict, read
from mahsm._numeric import JitSpec, Program, Step, Values, jax
from mahsm.operators._operator import Operator
from mahsm.operators._threads import in_thread, traced
from mahsm.operators._trees import Rest, combine, partition


class HybridOperator(Operator):
    """An operator that computes on arrays, or draws random numbers, and also calls models or other functions.

    The computation stands apart, in `compute`. A `vmap` runs `compute` for all items in one `jax.vmap`, and
    then calls `forward` for each item with the result of its computation.

    A subclass defines:

    - `compute(self, <names of input fields>, *, key)`: a function that JAX can trace. If it has a parameter
      `key`, it gets a key for `jax.random`, which depends only on the seed and on the item's place in the
      `vmap`. In a node, or called alone, the operator draws as for the first item.
    - `forward(self, input, computed)`: sync or async; `computed` is the result of `compute`, as NumPy arrays
      and numbers.

    Attributes:
        seed_key: The input field, and state key, of the seed: an integer from 0 to 2**32 - 1. Needed if
            `compute` takes a key.
        computed_of: The input fields that `compute` takes.
        draws: True if `compute` takes a key.

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
        """Do the work for an input, given the result of its computation."""

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
            raise TypeError(
                f"{type(self).__name__} has no compute; expected a method compute(self, ...) "
                "that JAX can trace."
            )

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        if len(inputs) < 2:
            inputs, options = type(self)._bound(self, inputs, options)
            inputs = (*inputs, type(self)._computed(self, *inputs))
        return Operator.__call__(self, *inputs, **options)

    async def acall(self, *inputs: Any, **options: Any) -> Any:
        if len(inputs) < 2:
            inputs, options = type(self)._bound(self, inputs, options)
            inputs = (*inputs, await in_thread(partial(type(self)._computed, self, *inputs)))
        return await Operator.acall(self, *inputs, **options)

    _alone: ClassVar[Program]
    """The program of all operators of this class that are called alone."""

    def _computed(self, input: Any) -> Any:
        """Return the result of `compute` for one input."""
        cls = type(self)
        if "_alone" not in vars(cls):
            cls._alone = _program_alone(cls)
        program = cls._alone
        wanted = (*cls.computed_of, *program.spec.seeds)
        values: State = as_dict(input) if wanted else {}
        state = {
            key: read(values, key, cls.__name__, "seed_key" if key in program.spec.seeds else "compute")
            for key in wanted
        }
        state[_OPERATOR] = _Compute(*partition(self))
        return _inlined(program, state) if traced() else program(state)["computed"]


class _Compute(eqx.Module):
    """The `compute` of an operator, as a module whose only leaves are the operator's arrays."""

    arrays: Any
    rest: Rest = eqx.field(static=True)

    def __call__(self, **inputs: Any) -> Any:
        op = combine(self.arrays, self.rest)
        cls = cast("type[HybridOperator]", type(op))
        return cls.compute(op, **inputs)


def computing(op: HybridOperator, names: Callable[[Sequence[str]], Mapping[str, str]], name: str) -> Program:
    """Return the compiled `compute` of an operator, which maps a state to `{"computed": ...}`.

    The operator's arrays stay on the device of the program.

    Args:
        op: The operator.
        names: Maps input fields to state keys.
        name: The node's name.
    """
    cls = type(op)
    return _program(
        cls, _Compute(*partition(op)), names(cls.computed_of), names([cls.seed_key])[cls.seed_key], name
    )


def _program(
    cls: type[HybridOperator], fn: Callable[..., Any], arguments: Any, seed_key: str, name: str
) -> Program:
    step = Step(
        name=name,
        fn=fn,
        arguments=arguments,
        out_keys=("computed",),
        single=True,
        seed_key=seed_key if cls.draws else None,
        # The same seed draws the same numbers under any name of the node.
        named_key=False,
    )
    return Program(JitSpec(name=name, steps=(step,), keep=("computed",)))


_OPERATOR = "mahsm:operator"
"""State key of the `_Compute` of an operator that is called alone."""


def _program_alone(cls: type[HybridOperator]) -> Program:
    """Return a program for all operators of a class, which takes the operator from the state."""

    def compute(of: _Compute, *values: Any, **special: Any) -> Any:
        return of(**dict(zip(cls.computed_of, values, strict=True)), **special)

    return _program(cls, compute, (_OPERATOR, *cls.computed_of), cls.seed_key, cls.__name__)


def _inlined(program: Program, state: State) -> Any:
    """Run a program as a part of the function that JAX traces."""
    spec, flatten = program.spec, Values(x64=jax.config.jax_enable_x64).flatten
    values: dict[str, Any] = {_OPERATOR: state[_OPERATOR]}
    for key in spec.reads[1:]:
        leaves: list[Any] = []
        values[key] = flatten(state[key], leaves, f"{spec.name}: input[{key!r}]").build(iter(leaves))
    keys: dict[str, Any] = {}
    for name in spec.seeds:
        seed = (
            state[name]
            if isinstance(state[name], jax.core.Tracer)
            else program.reader.seed(name, state[name])
        )
        keys[name] = jax.random.fold_in(jax.random.key(seed), 0)
    return spec.run([step.fn for step in spec.steps], values, None, keys)["computed"]
