"""`HybridOperator`: numbers computed for many inputs at once, and then work for each of them."""

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

    It says what it computes in `compute`, apart from the rest, so that a `vmap` computes it for all items in
    one `jax.vmap`, and then calls `forward` for each item, with what was computed for it.

    A subclass gives:

    - `compute(self, <names of input fields>, *, key)`: what JAX can trace; `key` is for `jax.random`, if it
      takes one. It is made of the seed and the item's place in the `vmap`, and of nothing else: in a node,
      and called alone, an operator draws as for the first item.
    - `forward(self, input, computed)`: sync or async; `computed` is what `compute` gave, as arrays of NumPy
      and numbers.

    Attributes:
        seed_key: The input field, and state key, of the seed: an integer from 0 to 2**32 - 1. Needed if
            `compute` takes a key.
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
    """What computes for operators of this class that are called alone."""

    def _computed(self, input: Any) -> Any:
        """What is computed for one input."""
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
    """What an operator computes, as a module whose only leaves are the operator's arrays."""

    arrays: Any
    rest: Rest = eqx.field(static=True)

    def __call__(self, **inputs: Any) -> Any:
        op = combine(self.arrays, self.rest)
        cls = cast("type[HybridOperator]", type(op))
        return cls.compute(op, **inputs)


def computing(op: HybridOperator, names: Callable[[Sequence[str]], Mapping[str, str]], name: str) -> Program:
    """What an operator computes, compiled, with its arrays kept where that is done: from a state to
    `{"computed": ...}`.

    Args:
        op: The operator.
        names: From input fields to state keys.
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
        named_key=False,  # one seed draws the same, whatever the node is called
    )
    return Program(JitSpec(name=name, steps=(step,), keep=("computed",)))


_OPERATOR = "mahsm:operator"
"""Where the state of an operator that is called alone holds what it computes."""


def _program_alone(cls: type[HybridOperator]) -> Program:
    """As `computing`, for all operators of a class, each of which is in the state."""

    def compute(of: _Compute, *values: Any, **special: Any) -> Any:
        return of(**dict(zip(cls.computed_of, values, strict=True)), **special)

    return _program(cls, compute, (_OPERATOR, *cls.computed_of), cls.seed_key, cls.__name__)


def _inlined(program: Program, state: State) -> Any:
    """The same, as a part of what JAX traces."""
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
