"""`JitEdge`: a numeric function between state keys, compiled."""

import asyncio
import dataclasses
import inspect
import threading
import warnings
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict, Unpack

from mahsm._common import as_dict
from mahsm._numeric import JitSpec, JitStats
from mahsm._waiting import THREAD
from mahsm.edges._jit.options import JitOptions
from mahsm.edges._shared.drawing import Compiled, DrawnGraph, arrow, drawn_as
from mahsm.edges._shared.edge import Edge
from mahsm.edges._shared.session import is_looked_at, session
from mahsm.errors import EdgeError

if TYPE_CHECKING:
    from mahsm._numeric import EagerProgram, Program

INSTALL = "pip install 'mahsm[jax]'"


class JitEdge(Edge):
    """A numeric function between state keys, compiled. Made by `jit_edge` and `fuse`.

    It computes directly where it is called. Its subgraph is only drawn and never run, since a step of
    LangGraph takes fifty times as long as a small function.
    """

    def __init__(self, spec: JitSpec) -> None:
        super().__init__(
            self.invoke,
            self.ainvoke,
            name=spec.name,
            graph=drawn_steps(
                spec.name, spec, (", ".join([*spec.reads, *spec.seeds]), ", ".join(spec.keep)), many=False
            ),
            reads=[*spec.reads, *spec.seeds],
            writes=spec.keep,
            children={},
        )
        self.spec = spec
        self._replaced: dict[int, Any] = {}
        self._program: Program | EagerProgram | None = None
        self._lock = threading.Lock()
        if not has_jax():
            _check_without_jax(spec)
            warnings.warn(
                f"{spec.name}: JAX is not installed, so this edge is not compiled: its function is called "
                f"with NumPy arrays. {INSTALL} to compile it.",
                stacklevel=_levels_up(),
            )

    @property
    def program(self) -> "Program | EagerProgram":
        """The compiled program, made when it is first needed, so that building a graph does not start JAX."""
        if self._program is None:
            with self._lock:
                if self._program is None:
                    self._program = _program(self.spec)
        return self._program

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Compute, and return the update."""
        program = self._program or self.program
        state = cast("dict[str, Any]", input) if type(input) is dict else as_dict(input)
        if not is_looked_at():
            return program(state)
        return self._computed(program, state, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Async version of `invoke`, in a thread unless the computation is known to be short."""
        state = cast("dict[str, Any]", input) if type(input) is dict else as_dict(input)
        program = self._program
        if program is None or not program.is_short(state):
            return await asyncio.to_thread(lambda: self._computed(self.program, state, config))
        return self._computed(program, state, config)

    def _computed(
        self, program: "Program | EagerProgram", state: dict[str, Any], config: RunnableConfig | None
    ) -> Any:
        if not is_looked_at():
            return program.timed(state)
        options: Any = {"shown": {key: state.get(key) for key in self.reads}, "calls_models": False}
        with session("jit", self.name, THREAD, state, ensure_config(config), **options) as around:
            before = program.stats
            update = program.timed(state)
            if around.span is not None:
                around.span.note(program.stats.facts(before))
                around.span.show(update)
            return update

    def warmup(self, *states: Any) -> None:
        """Compile for states like these, without computing.

        Args:
            *states: Example states; a `jax.ShapeDtypeStruct` may take the place of an array.

        Raises:
            JitError: if the function cannot be compiled.
            StateError: for values that it cannot be compiled for.
            EdgeError: if the device does not exist.

        Example:
            >>> import numpy as np
            >>> from mahsm import jit_edge
            >>> edge = jit_edge(lambda x: x * 2, in_keys=["x"], out_key="y")
            >>> edge.warmup({"x": np.zeros(3)})
            >>> edge.stats.compiles
            1
        """
        for state in states:
            self.program.warmup(as_dict(state))

    @property
    def stats(self) -> JitStats:
        """The calls and compilations of this process so far, and the milliseconds of compilation."""
        return JitStats() if self._program is None else self._program.stats

    def replace(self, module: Any, *, step: str | None = None) -> None:
        """Swap the arrays of the module that the edge computes with, without compiling again.

        Args:
            module: A module of the same class, with the same static fields and arrays of the same shapes.
            step: For a fused edge, the name of the edge whose module it is.

        Raises:
            EdgeError: if the module does not fit.

        Example:
            >>> import equinox as eqx, jax
            >>> from mahsm import jit_edge
            >>> class Scale(eqx.Module):
            ...     by: jax.Array
            ...     def __call__(self, x):
            ...         return x * self.by
            >>> edge = jit_edge(Scale(jax.numpy.array(2.0)), in_keys=["x"], out_key="y")
            >>> edge.invoke({"x": 3.0})
            {'y': 6.0}
            >>> edge.replace(Scale(jax.numpy.array(10.0)))
            >>> edge.invoke({"x": 3.0}), edge.stats.compiles
            ({'y': 30.0}, 1)
        """
        names = [each.name for each in self.spec.steps]
        if step is None and len(names) > 1:
            raise EdgeError(
                f"{self.name}: replace needs the name of one of the fused edges; pass step= one of "
                f"{', '.join(names)}."
            )
        if step is not None and step not in names:
            raise EdgeError(
                f"{self.name}: replace got step={step!r}; expected one of {', '.join(map(repr, names))}."
            )
        index = 0 if step is None else names.index(step)
        self.program.replace(index, module)
        self._replaced[index] = module

    @property
    def current_spec(self) -> JitSpec:
        """The specification, with the modules that `replace` has put in."""
        steps = list(self.spec.steps)
        for index, module in self._replaced.items():
            steps[index] = dataclasses.replace(steps[index], fn=module)
        return dataclasses.replace(self.spec, steps=tuple(steps)) if self._replaced else self.spec

    def with_(self, **changes: Unpack[JitOptions]) -> "JitEdge":
        """Make a copy of this edge with some arguments changed.

        It computes with the modules that `replace` has put in, and has its own compilations.

        Args:
            **changes: Arguments of `jit_edge`; for an edge made by `fuse`, only `keep` and `name`.

        Raises:
            TypeError: for an argument that the function does not have. The edges in a fused edge cannot be
                changed afterwards: change them, and fuse them again.
            MahsmError: whatever the function raises for these arguments.

        Example:
            >>> from mahsm import jit_edge
            >>> edge = jit_edge(lambda x: x / 3, in_keys=["x"], out_key="y")
            >>> edge.with_(x64=True).invoke({"x": 1.0}), edge.with_(output="python").invoke({"x": [3.0]})
            ({'y': 0.3333333333333333}, {'y': [1.0]})
        """
        edge = cast("JitEdge", super().with_(**changes))
        if "fn" not in changes:
            for made, mine in zip(edge.spec.steps, self.current_spec.steps, strict=True):
                if made.fn is not mine.fn:
                    edge.replace(mine.fn, step=made.name)
        return edge


def _levels_up() -> int:
    """Return the `stacklevel` of the code that makes an edge, outside of this package."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("mahsm."):
        level, frame = level + 1, frame.f_back
    return level


def has_jax() -> bool:
    """Return whether JAX is installed."""
    return find_spec("jax") is not None


def _program(spec: JitSpec) -> "Program | EagerProgram":
    if has_jax():
        from mahsm._numeric import Program

        return Program(spec)
    from mahsm._numeric import EagerProgram

    return EagerProgram(spec)


def _check_without_jax(spec: JitSpec) -> None:
    wanted = {
        "device=": spec.device is not None,
        "seed_key=": bool(spec.seeds),
        "output='jax'": spec.output == "jax",
    }
    for argument, given in wanted.items():
        if given:
            raise ImportError(f"{spec.name}: {argument} needs JAX, which is not installed: {INSTALL}")


class _JitState(TypedDict):
    """State of the subgraph, which is only drawn."""

    done: None


def drawn_steps(name: str, spec: JitSpec, labels: tuple[str, str], *, many: bool) -> Compiled:
    """Return a graph of the steps that is only drawn, with labels at its start and end.

    With `many`, the arrows there are dotted, for any number of items.
    """

    def node(_: Any, config: RunnableConfig) -> Any:
        raise EdgeError(
            f"{name}: this subgraph is for drawings; invoke the edge, or the graph that holds it."
        )

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(_JitState)
    names = [step.name for step in spec.steps]
    for step in names:
        builder.add_node(step, cast("Any", node))
    for start, end in pairwise([START, *names, END]):
        builder.add_edge(start, end)
    first, last = arrow(START, names[0], labels[0], many=many), arrow(names[-1], END, labels[1], many=many)
    arrows = [first, *(arrow(start, end) for start, end in pairwise(names)), last]
    return drawn_as(DrawnGraph, builder.compile(name=name), arrows=arrows)
