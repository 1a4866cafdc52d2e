"""`dspy_program`: a DSPy program as a LangGraph, with its sub-modules as nodes."""

import asyncio
import copy
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Annotated, Any, NoReturn, cast

import dspy
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send
from typing_extensions import TypedDict

from mahsm._state import as_dict, shown
from mahsm._types import State
from mahsm.errors import GraphError
from mahsm.nodes._dspy import DSPyNode
from mahsm.nodes._fields import Inputs, plain, signature_of
from mahsm.nodes._held import Held
from mahsm.nodes._node import Node

Builder = StateGraph[Any, Any, Any, Any]
BEGIN, FORWARD = "begin", "forward"
"""The nodes that run `forward`: for the first time, and again after each call."""
CALLS = "mahsm:calls"
"""The state key of the calls that have been made, which no field of a program is named."""


def dspy_program(program: dspy.Module, /, *, outputs: Sequence[str] | None = None) -> Builder:
    """Make a LangGraph of a DSPy program: its sub-modules are the nodes, and `forward` says which comes next.

    What the program does is what its `forward` does, with its loops, conditions and Python between the calls. Whenever
    `forward` calls a sub-module, the graph goes to that node, and then back to `forward`, which is run again from its
    beginning with the results that there are. So a checkpointer saves after each call, and a resumed run repeats none;
    streams, traces, interrupts and `usage()` see each call as a node. As with any LangGraph node that is resumed, what
    `forward` does besides calling sub-modules should be quick, and the same each time: work that is not belongs into a
    sub-module.

    Args:
        program: The program. Its sub-modules are those in its attributes, and in lists and dicts there. The nodes hold the
            modules themselves, and are named as DSPy names them: `self.plan`, `self.steps[0]`.
        outputs: Fields of the prediction, which become state keys; by default those of the program's signature, or of all its
            sub-modules.

    Returns:
        The graph, still to be compiled: `dspy_program(program).compile(checkpointer=...)`. A run takes two steps of LangGraph
        for each call, which a `recursion_limit` in the config has to allow for.

    Raises:
        GraphError: at once, for what is no program with sub-modules, or names that cannot be told; when run, if `forward` calls
            other sub-modules when it is run again, calls them in threads, or gives fields that are not in `outputs`.

    Example:
        >>> import dspy
        >>> from mahsm import dspy_program
        >>> from mahsm.testing import FakeLM
        >>> class Answer(dspy.Module):
        ...     def __init__(self):
        ...         self.plan = dspy.Predict("question -> steps: int")
        ...         self.step = dspy.Predict("question, so_far -> answer")
        ...     def forward(self, question):
        ...         answer = ""
        ...         for _ in range(self.plan(question=question).steps):
        ...             answer = self.step(question=question, so_far=answer).answer
        ...         return dspy.Prediction(answer=answer)
        >>> graph = dspy_program(Answer()).compile()
        >>> lm = FakeLM(lambda call: {"steps": 2} if "steps" in call.outputs else {"answer": call.inputs["so_far"] + "."})
        >>> with dspy.context(lm=lm):
        ...     steps = [name for update in graph.stream({"question": "?"}, stream_mode="updates") for name in update]
        ...     [name for name in steps if name.startswith("self")], graph.invoke({"question": "?"})["answer"]
        (['self.plan', 'self.step', 'self.step'], '..')
    """
    if not isinstance(program, dspy.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise GraphError(f"dspy_program: got {shown(program)}; expected a dspy.Module.")
    modules = dict(_sub_modules(program))
    if not modules:
        raise GraphError(
            f"dspy_program: {type(program).__name__} has no sub-modules that could be nodes. Make it one node with "
            "dspy_node(...)."
        )
    nodes = {name: _node(name, module) for name, module in modules.items()}
    driver = _Driver(program, {name: node.held[""] for name, node in nodes.items()}, outputs)
    builder: Builder = StateGraph(driver.schema, input_schema=driver.input_schema, output_schema=driver.output_schema)
    builder.add_node(BEGIN, driver.begin, destinations=(*nodes, END))
    builder.add_node(FORWARD, driver.forward, destinations=(*nodes, END))
    builder.add_edge(START, BEGIN)
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(name, FORWARD)
    return builder


def _node(name: str, module: dspy.Module) -> DSPyNode:
    """A node that calls the module with what `forward` sent, and adds the result to the calls that have been made."""

    def recorded(result: Any) -> State:
        kind = "prediction" if isinstance(result, dspy.Example) else "value"
        return {CALLS: [{"module": name, kind: plain(result)}]}

    return DSPyNode(module, input_transform=lambda arguments: arguments, output_transform=recorded, name=name)


class _Driver:
    """The node that runs a program's `forward` until it calls a sub-module whose result is not there yet.

    Args:
        program: The program.
        places: Where its sub-modules are held.
        outputs: Fields of its prediction.
    """

    def __init__(self, program: dspy.Module, places: Mapping[str, Held], outputs: Sequence[str] | None) -> None:
        self._label = f"dspy_program({type(program).__name__})"
        self._outputs = self._fields(program, places, outputs)
        self._inputs = Inputs(self._label, program, None, None)
        self._program = _with_stands(program, {name: _Stand(name, held) for name, held in places.items()})
        calls: dict[str, Any] = {CALLS: Annotated[list[Any], _with_calls]}
        self.input_schema: Any = _schema("Input", dict.fromkeys(sorted(self._inputs.keys), Any))
        self.output_schema: Any = _schema("Output", dict.fromkeys(self._outputs, Any))
        self.schema: Any = _schema("State", {**dict.fromkeys([*sorted(self._inputs.keys), *self._outputs], Any), **calls})
        self.begin = Node(partial(self._run, anew=True), partial(self._run_async, anew=True), name=BEGIN)
        self.forward = Node(self._run, self._run_async, name=FORWARD)

    def _fields(self, program: Any, places: Mapping[str, Held], outputs: Any) -> list[str]:
        if isinstance(outputs, str):
            raise GraphError(
                f"{self._label}: outputs={outputs!r} is one text; expected a list of fields, as outputs=[{outputs!r}]."
            )
        signature = getattr(program, "signature", None)
        signatures = (
            [signature] if hasattr(signature, "output_fields") else [signature_of(one.module) for one in places.values()]
        )
        known = [field for one in signatures if one is not None for field in one.output_fields]
        fields = list(dict.fromkeys(known if outputs is None else outputs))
        if not fields:
            raise GraphError(f"{self._label}: nothing says which fields its prediction has. Pass outputs=[...].")
        return fields

    def _run(self, state: Any, config: RunnableConfig, anew: bool = False) -> Any:
        values = as_dict(state)
        replay = _Replay(self._label, [] if anew else values[CALLS])
        try:
            with replay.running():
                return self._update(_forward(self._program, "forward")(**self._inputs.of(values)))
        except _Call as call:
            return call.command

    async def _run_async(self, state: Any, config: RunnableConfig, anew: bool = False) -> Any:
        if not hasattr(cast("type[Any]", type(self._program)), "aforward"):
            return await asyncio.to_thread(self._run, state, config, anew)
        values = as_dict(state)
        replay = _Replay(self._label, [] if anew else values[CALLS])
        try:
            with replay.running():
                return self._update(await _forward(self._program, "aforward")(**self._inputs.of(values)))
        except _Call as call:
            return call.command

    def _update(self, result: Any) -> State:
        fields: Any = plain(result)
        if not isinstance(fields, dict):
            raise GraphError(f"{self._label}: forward returned {shown(fields)}; expected a dspy.Prediction.")
        update = cast("State", fields)
        if unknown := [field for field in update if field not in self._outputs]:
            raise GraphError(
                f"{self._label}: forward gave {', '.join(map(repr, unknown))}; the graph has the outputs "
                f"{', '.join(map(repr, self._outputs))}. Pass outputs={[*update]}."
            )
        return update


class _Call(BaseException):
    """`forward` calls a sub-module whose result is not there yet; no `except Exception` of its shall stop that."""

    def __init__(self, name: str, arguments: State, *, again: bool) -> None:
        super().__init__(name)
        self.command: Command[Any] = Command(goto=Send(name, arguments), update={} if again else {CALLS: None})


class _Replay:
    """The calls that one run of `forward` makes, next to those that were made before.

    Args:
        label: Who says so in errors.
        calls: Those that were made, with their results.
    """

    def __init__(self, label: str, calls: Sequence[Mapping[str, Any]]) -> None:
        self.label = label
        self._again = bool(calls)
        self._calls = iter(enumerate(calls))

    def call(self, name: str, arguments: State) -> Any:
        """The result of the call, if it is there."""
        number, made = next(self._calls, (0, None))
        if made is None:
            raise _Call(name, arguments, again=self._again)
        if made["module"] != name:
            raise GraphError(
                f"{self.label}: forward is not the same when it is run again: call {number} was {made['module']!r}, now it is "
                f"{name!r}. What it decides has to depend on its inputs and on results of its sub-modules only."
            )
        return dspy.Prediction(**made["prediction"]) if "prediction" in made else made["value"]

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """`forward` runs in the block."""
        token = _replay.set(self)
        try:
            yield
        finally:
            _replay.reset(token)


_replay: ContextVar[_Replay | None] = ContextVar("mahsm_replay", default=None)


class _Stand(dspy.Module):
    """Stands for a sub-module inside of `forward`: a call of it is a step of the graph."""

    def __init__(self, name: str, held: Held) -> None:
        super().__init__()
        self._name = name
        self._held = held

    def __call__(self, *args: Any, **arguments: Any) -> Any:
        replay = _replay.get()
        if replay is None:
            self._no_replay()
        if args:
            raise GraphError(
                f"{replay.label}: forward calls {self._name} with {shown(args[0])} and no name. Pass it by name, as the state "
                "of a node has names."
            )
        return replay.call(self._name, arguments)

    async def acall(self, *args: Any, **arguments: Any) -> Any:
        return self(*args, **arguments)

    def _no_replay(self) -> NoReturn:
        raise GraphError(
            f"dspy_program: {self._name} is called in a thread that forward starts, where a call cannot be a step of the "
            "graph. Fan out in a sub-module of its own, or with vmap."
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._held.current, name)


def _with_calls(calls: list[Any], more: list[Any] | None) -> list[Any]:
    """How the state reduces the calls: a run that begins has none, whatever a run of the same thread before it has made."""
    return [] if more is None else [*calls, *more]


def _sub_modules(program: Any) -> Iterator[tuple[str, dspy.Module]]:
    """The modules in the attributes of a program, by the names that DSPy gives them."""
    for name, value in _attributes(program):
        for key, entry in _entries(value):
            if isinstance(entry, dspy.Module):
                yield f"self.{name}{key}", entry


def _with_stands(program: Any, stands: Mapping[str, _Stand]) -> Any:
    """The program with stands for its sub-modules."""
    copied = copy.copy(program)
    for name, value in _attributes(program):
        replaced = {key: stands.get(f"self.{name}{key}", entry) for key, entry in _entries(value)}
        if isinstance(value, dict):
            setattr(copied, name, dict(zip(cast("dict[Any, Any]", value), replaced.values(), strict=True)))
        elif type(value) in (list, tuple):
            setattr(copied, name, type(value)(replaced.values()))
        else:
            setattr(copied, name, replaced[""])
    return copied


def _attributes(program: Any) -> list[tuple[str, Any]]:
    return list(cast("dict[str, Any]", vars(program)).items())


def _entries(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key}]", entry) for key, entry in cast("dict[Any, Any]", value).items()]
    if type(value) in (list, tuple):
        return [(f"[{index}]", entry) for index, entry in enumerate(cast("Sequence[Any]", value))]
    return [("", value)]


def _forward(program: Any, name: str) -> Any:
    return object.__getattribute__(program, name)  # reading program.forward logs a warning


def _schema(name: str, fields: Mapping[str, Any]) -> Any:
    return TypedDict(name, dict(fields), total=False)  # type: ignore[operator]
