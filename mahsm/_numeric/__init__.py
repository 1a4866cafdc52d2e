"""Numeric functions of a state, compiled by JAX; the part of `jit_edge` that knows of no graph.

- `spec`      what is compiled: functions one after the other, on keys of a state
- `values`    what of a value is dynamic and what is static
- `integers`  integers in 64 bits, floats as ever
- `inputs`    reading a state; `ragged`: padding what varies in length
- `program`   what an edge calls; `batch`: many states at once, as a `batch_result`
- `compiler`  compiles for each structure and shape; `compiled`: what came of it for one structure
- `modules`   functions that hold arrays
- `devices`   where it runs
- `outputs`   what comes out
- `compiles`  counting compilations; `storms`: a warning where there are too many
- `reasons`   why a function cannot be compiled, in words
- `untyped_jax`  JAX, as something of unknown type
- `eager`     the same without JAX

JAX is imported by `compiled`, `compiler`, `program`, `batch` and `modules`, which are loaded when something
is computed.
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
    from mahsm._numeric.untyped_jax import jax as jax
    from mahsm._numeric.values import Values as Values
    from mahsm._numeric.values import tag_of_tree as tag_of_tree
    from mahsm._numeric.values import tagged as tagged

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
    "tagged": "mahsm._numeric.values",
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
    "tagged",
]


def __getattr__(name: str) -> Any:
    return attach(__name__, _HOMES, name)
