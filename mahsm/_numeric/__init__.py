"""Numeric functions of a state, compiled by JAX: the part of `jit_edge` that is independent of graphs.

- `spec`      the spec of a program: functions in sequence, on keys of a state
- `values`    the dynamic and the static parts of a value
- `integers`  integers in 64 bits beside floats in 32
- `inputs`    reading a state; `ragged`: padding of arrays that vary in length
- `program`   the program that an edge calls; `batch`: many states in one call; `batch_result`: their results
- `compiler`  compiles for each structure and shape; `compiled`: the functions compiled for one structure
- `modules`   functions that hold arrays
- `devices`   placement on devices
- `outputs`   conversion of results
- `compiles`  counts of compilations; `storms`: a warning if there are too many
- `reasons`   error messages for functions that cannot be compiled
- `untyped_jax`  JAX typed as `Any`
- `traces`    whether JAX traces a function here
- `eager`     the same program without JAX

JAX is imported by `compiled`, `compiler`, `program`, `batch` and `modules`, which are loaded at the first
computation.
"""

from typing import TYPE_CHECKING, Any

from mahsm._lazy import attach

if TYPE_CHECKING:
    from mahsm._numeric.batch_result import BatchResult as BatchResult
    from mahsm._numeric.compiles import JitStats as JitStats
    from mahsm._numeric.devices import check_device as check_device
    from mahsm._numeric.eager import EagerProgram as EagerProgram
    from mahsm._numeric.outputs import plain as plain
    from mahsm._numeric.program import Program as Program
    from mahsm._numeric.spec import JitSpec as JitSpec
    from mahsm._numeric.spec import Output as Output
    from mahsm._numeric.spec import Step as Step
    from mahsm._numeric.traces import traced as traced
    from mahsm._numeric.untyped_jax import jax as jax
    from mahsm._numeric.values import Values as Values
    from mahsm._numeric.values import tag_of_tree as tag_of_tree

_HOMES = {
    "tag_of_tree": "mahsm._numeric.values",
    "JitStats": "mahsm._numeric.compiles",
    "jax": "mahsm._numeric.untyped_jax",
    "plain": "mahsm._numeric.outputs",
    "Step": "mahsm._numeric.spec",
    "BatchResult": "mahsm._numeric.batch_result",
    "Values": "mahsm._numeric.values",
    "Output": "mahsm._numeric.spec",
    "EagerProgram": "mahsm._numeric.eager",
    "JitSpec": "mahsm._numeric.spec",
    "check_device": "mahsm._numeric.devices",
    "Program": "mahsm._numeric.program",
    "traced": "mahsm._numeric.traces",
}

__all__ = [
    "BatchResult",
    "EagerProgram",
    "JitSpec",
    "JitStats",
    "Output",
    "Program",
    "Step",
    "Values",
    "check_device",
    "jax",
    "plain",
    "tag_of_tree",
    "traced",
]


def __getattr__(name: str) -> Any:
    return attach(__name__, _HOMES, name)
