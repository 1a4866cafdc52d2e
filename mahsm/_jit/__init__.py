"""Numeric functions of a state, compiled by JAX; the part of `jit_edge` that knows of no graph.

- `_spec`      what is compiled: functions one after the other, on keys of a state
- `_values`    what of a value is dynamic and what is static
- `_integers`  integers in 64 bits, floats as ever
- `_inputs`    reading a state; `_ragged`: padding what varies in length
- `_program`   compiling for each structure and shape, and calling; `_batch`: for many states at once, as a `_batch_result`
- `_modules`   functions that hold arrays
- `_devices`   where it runs
- `_outputs`   what comes out
- `_compiles`  counting compilations; `_storms`: a warning where there are too many
- `_reasons`   why a function cannot be compiled, in words
- `_eager`     the same without JAX

JAX is imported by `_program`, `_batch` and `_modules`, which are loaded when something is computed.
"""
