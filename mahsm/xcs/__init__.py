"""Transformations of programs: functions that run ahead of themselves.

`jit` runs the calls of models in a function beside each other, `step` marks a function of yours as such a
call, `vmap` maps a function over many items, and `grad` is for numeric functions. The report of the last call
of a jitted function is its attribute `last`.

Example:
    >>> from mahsm import xcs
    >>> @xcs.step
    ... def ask(question):
    ...     return f"<{question}>"
    >>> @xcs.jit
    ... def debate(topic):
    ...     pro, con = ask(f"for {topic}"), ask(f"against {topic}")
    ...     return ask(f"judge {pro} {con}")
    >>> debate("tea")
    '<judge <for tea> <against tea>>'

Where things are:

- `_jit`         `jit`
- `_step`        `step`, and what else is a step
- `_durable`     the durable form, in LangGraph's functional API
- `_vmap`        `vmap`
- `_numeric`     `grad`, and functions that JAX compiles
- `_report`      reports of calls
- `_run`, `_step_run`  one call of a jitted function, and its steps
- `_strands`, `_scopes`, `_journal`  the tasks of a program, the bodies of `try` and `with`, and how changes
  in them are undone
- `_current`     the context variable of this package
- `_cells`, `_pending`, `_derived`, `_containers`  values that are not there yet
- `_rewrite`, `_kept`, `_targets`, `_syntax`  the rewriting, and its pieces
- `_source`      where sources come from
- `_calls`       calls of rewritten code, and the helpers that it uses; `_functions` and `_foreign`: those of
  functions that are not rewritten
- `_call_names`, `_lines`  the name of a step in the code that calls it, and the line of an operation in the
  traceback of an error that comes later
- `_formats`, `_changes`, `_awaiting`  f-strings, operators and containers, `await`
- `_greenlets`   waiting in the middle of synchronous code on an event loop
- `_warnings`    functions that cannot be rewritten
"""

from mahsm.xcs._jit import AsyncJitted as AsyncJitted
from mahsm.xcs._jit import Jitted as Jitted
from mahsm.xcs._jit import jit as jit
from mahsm.xcs._numeric import grad as grad
from mahsm.xcs._report import Report as Report
from mahsm.xcs._report import StepRecord as StepRecord
from mahsm.xcs._report import Wait as Wait
from mahsm.xcs._step import Step as Step
from mahsm.xcs._step import step as step
from mahsm.xcs._vmap import AsyncVmapped as AsyncVmapped
from mahsm.xcs._vmap import Vmapped as Vmapped
from mahsm.xcs._vmap import vmap as vmap

__all__ = [
    "AsyncJitted",
    "AsyncVmapped",
    "Jitted",
    "Report",
    "Step",
    "StepRecord",
    "Vmapped",
    "Wait",
    "grad",
    "jit",
    "step",
    "vmap",
]
