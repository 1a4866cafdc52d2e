"""`dspy_program`: a DSPy program as a LangGraph, with its sub-modules as nodes."""

import asyncio
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Annotated, Any, TypeAlias, cast

import dspy
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from mahsm import _spans
from mahsm._common import State, as_dict, shown
from mahsm._model_calls import is_observed, observed, restored_context
from mahsm._waiting import tasks
from mahsm.errors import GraphError
from mahsm.graph._placeholders import keep_attributes, parts_of, snapshot, with_stands
from mahsm.graph._recorded import fresh
from mahsm.graph._replay import BEGIN, FORWARD, Replay, Stopped
from mahsm.nodes._internal import (
    FieldInputs,
    ModuleRef,
    Node,
    Unparsed,
    check_gives_fields,
    output_names,
    plain,
)

Builder: TypeAlias = StateGraph[Any, Any, Any, Any]
CALLS = "mahsm:calls"
"""The state key of the calls that have been made; a program cannot have a field of this name."""


def dspy_program(program: dspy.Module, /, *, outputs: Sequence[str] | None = None) -> Builder:
    """Make a LangGraph from a DSPy program. Its sub-modules are the nodes; `forward` chooses the next one.

    The graph does what `forward` does: its loops, conditions and Python code between the calls apply, and so
    do `dspy.context`, `set_lm`, copies and handled errors. Each node makes one call of its sub-module, and
    then runs `forward` up to the next call. For that, `forward` is run from its start, with the results of
    the calls so far. So a checkpointer saves after each call, and a resumed run repeats no call; streams,
    traces, interrupts and `usage()` show each call as a node. As in any LangGraph node that is resumed, the
    code of `forward` between calls should be fast, and do the same each time; move other work to a
    sub-module or a tool.

    Args:
        program: The program. Its sub-modules and tools are those in its attributes, and in lists and dicts
            there. The nodes hold the modules themselves, and have DSPy's names: `self.plan`,
            `self.steps[0]`. Calls of a module inside a sub-module are made in the node of the sub-module.
            Other calls, such as those of modules that `forward` creates, are made in the node `forward`.
        outputs: Fields of the prediction, which become state keys; by default those of the program's
            signature, or of all its sub-modules. Other fields are left out.

    Returns:
        The graph, not yet compiled: `dspy_program(program).compile(checkpointer=...)`. A run takes one step
        of LangGraph for each call, so the `recursion_limit` of the config must allow for that many.

    Raises:
        GraphError: immediately, if this is not a program with sub-modules, its outputs are unknown, or it has
            its own `__call__`; when run, before the call is made, if `forward` makes other calls when it is
            run again, makes calls in threads, or calls a language model other than that of `dspy.settings`;
            if it calls `interrupt()` itself, or does not return a prediction.
        NodeError: if its inputs are unknown, or `forward` is annotated with a type that is not a prediction.

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
        >>> def reply(call):
        ...     return {"steps": 2} if "steps" in call.outputs else {"answer": call.inputs["so_far"] + "."}
        >>> lm = FakeLM(reply)
        >>> with dspy.context(lm=lm):
        ...     updates = list(graph.stream({"question": "?"}, stream_mode="updates"))
        ...     steps = [name for update in updates for name in update]
        ...     [name for name in steps if name.startswith("self")], graph.invoke({"question": "?"})["answer"]
        (['self.plan', 'self.step', 'self.step'], '..')
    """
    if not isinstance(program, dspy.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise GraphError(f"dspy_program: got {shown(program)}; expected a dspy.Module.")
    _check_call(program)
    parts = dict(parts_of(program))
    places = {name: ModuleRef(part) for name, part in parts.items() if isinstance(part, dspy.Module)}
    if not places:
        raise GraphError(
            f"dspy_program: {type(program).__name__} has no sub-modules that could be nodes. Make it one "
            "node with dspy_node(...)."
        )
    driver = _Driver(program, parts, places, outputs)
    builder: Builder = StateGraph(
        driver.schema, input_schema=driver.input_schema, output_schema=driver.output_schema
    )
    nodes = (*parts, FORWARD)
    for name in (BEGIN, *nodes):
        builder.add_node(name, driver.node(name), destinations=(*nodes, END))
    builder.add_edge(START, BEGIN)
    return builder


def _check_call(program: Any) -> None:
    for name in ("__call__", "acall"):
        owner = next(kind for kind in type(program).__mro__ if name in vars(kind))
        if not owner.__module__.startswith("dspy."):
            raise GraphError(
                f"dspy_program: {type(program).__name__} has a {name} of its own, which a graph would not "
                "run. Move it into forward, or make the program one node with dspy_node(...)."
            )


class _Driver:
    """Runs a program's `forward` in each node, with the results so far, up to the next node's call.

    Args:
        program: The program.
        parts: Its sub-modules and tools, by name.
        places: References to the sub-modules, by name.
        outputs: Fields of its prediction.
    """

    def __init__(
        self,
        program: dspy.Module,
        parts: Mapping[str, Any],
        places: Mapping[str, ModuleRef],
        outputs: Sequence[str] | None,
    ) -> None:
        self._label = f"dspy_program({type(program).__name__})"
        self._program = program
        self._parts = parts
        self._places = places
        self._unparsed = Unparsed()
        self._outputs = self._fields(outputs)
        self._inputs = FieldInputs(self._label, program, None, None)
        check_gives_fields(self._label, program)
        kind = cast("type[Any]", type(program))
        self._is_async = hasattr(kind, "aforward")
        self._only_async = self._is_async and not hasattr(kind, "forward")
        calls: dict[str, Any] = {CALLS: Annotated[list[Any], _with_calls]}
        self.input_schema: Any = _schema("Input", dict.fromkeys(sorted(self._inputs.keys), Any))
        self.output_schema: Any = _schema("Output", dict.fromkeys(self._outputs, Any))
        self.schema: Any = _schema(
            "State", {**dict.fromkeys([*sorted(self._inputs.keys), *self._outputs], Any), **calls}
        )

    def _fields(self, outputs: Any) -> list[str]:
        if isinstance(outputs, str):
            raise GraphError(
                f"{self._label}: outputs={outputs!r} is a string; expected a list of fields, such as "
                f"outputs=[{outputs!r}]."
            )
        own = getattr(self._program, "signature", None)
        modules = (
            [self._program]
            if hasattr(own, "output_fields")
            else [place.module for place in self._places.values()]
        )
        known = [field for module in modules for field in output_names(module)]
        fields = list(dict.fromkeys(known if outputs is None else outputs))
        if not fields:
            raise GraphError(f"{self._label}: the fields of its prediction are unknown. Pass outputs=[...].")
        return fields

    def node(self, name: str) -> Node:
        """Make the node for the calls of a sub-module or tool."""
        made = Node(partial(self._run, name), partial(self._run_async, name), name=name)
        if name in self._places:
            made.held = {"": self._places[name]}
        return made

    def _run(self, node: str, state: Any, config: RunnableConfig) -> Any:
        if self._only_async:
            return tasks.call(partial(self._run_async, node, state, config))
        with self._unparsed.attempt():
            with self._running(node, as_dict(state), config) as (run, arguments):
                run.ended(lambda: _method(run.program, "forward")(**arguments))
            return run.update()

    async def _run_async(self, node: str, state: Any, config: RunnableConfig) -> Any:
        if not self._is_async:
            return await asyncio.to_thread(self._run, node, state, config)
        with self._unparsed.attempt():
            with self._running(node, as_dict(state), config) as (run, arguments):
                await run.ended_async(lambda: _method(run.program, "aforward")(**arguments))
            return run.update()

    @contextmanager
    def _running(
        self, node: str, state: State, config: RunnableConfig
    ) -> Generator[tuple["_Run", dict[str, Any]], None, None]:
        """Yield a run of `forward` and its arguments; model calls in the block are observed as the node's."""
        # `forward` may change its arguments.
        arguments = {name: fresh(value) for name, value in self._inputs.of(state).items()}
        replay = Replay(self._label, node, [] if node == BEGIN else state[CALLS])
        current = {
            name: self._places[name].current if name in self._places else part
            for name, part in self._parts.items()
        }
        run = _Run(self._label, self._program, with_stands(self._program, current), replay, self._outputs)
        callers: list[Any] = [*(cast("Any", dspy.settings).caller_modules or ()), self._program]
        with restored_context(), dspy.context(caller_modules=callers), replay.running(), _spans.node(config):
            if is_observed():
                yield run, arguments
            else:
                with observed():
                    yield run, arguments


class _Run:
    """One run of `forward` in a node.

    Attributes:
        program: The program with placeholders.
    """

    def __init__(self, label: str, program: Any, stands: Any, replay: Replay, outputs: Sequence[str]) -> None:
        self.program = stands
        self._label = label
        self._replay = replay
        self._outputs = outputs
        self._real = program
        self._before = snapshot(stands)
        self._result: State = {}
        self._failure: Exception | None = None

    def ended(self, forward: Any) -> None:
        """Run `forward` until it ends or stops at a call."""
        try:
            self._result = self._fields(forward())
        except Stopped:
            pass
        except Exception as error:  # noqa: BLE001
            # `update` decides whether to raise it.
            self._failure = error

    async def ended_async(self, forward: Any) -> None:
        """Async version of `ended`."""
        try:
            self._result = self._fields(await forward())
        except Stopped:
            pass
        except BaseExceptionGroup as group:
            # Raised by an asyncio.TaskGroup.
            if group.subgroup(Stopped) is None:
                self._failed(group)
        except Exception as error:  # noqa: BLE001
            self._failure = error

    def _failed(self, group: BaseExceptionGroup[Any]) -> None:
        if not isinstance(group, Exception):
            raise group
        self._failure = group

    @property
    def _has_to_fail_again(self) -> bool:
        """True if `forward` failed after a call that was made here and has to be saved first."""
        made = self._replay.made
        return self._failure is not None and made is not None and "error" not in made

    def update(self) -> Any:
        """Return the node's update: it adds the call that was made, and goes to the next node, if any.

        Raises:
            Exception: the error that stopped `forward`.
        """
        replay = self._replay
        if replay.error is not None:
            raise replay.error
        calls: State = {CALLS: [replay.made]} if replay.made is not None else {}
        if replay.next is not None:
            return Command(goto=replay.next, update=calls or ({CALLS: None} if replay.node == BEGIN else {}))
        if self._has_to_fail_again:
            return Command(goto=FORWARD, update=calls)
        if isinstance(self._failure, GraphBubbleUp):
            raise GraphError(
                f"{self._label}: forward itself calls interrupt(), which would ask again after each call. "
                "Ask in a sub-module, or in a tool of one."
            ) from self._failure
        keep_attributes(self._real, self.program, self._before)
        if self._failure is not None:
            raise self._failure
        return {**self._result, **calls}

    def _fields(self, result: Any) -> State:
        fields: Any = plain(result)
        if self._replay.next is not None or self._replay.error is not None:
            return {}
        if not isinstance(fields, dict):
            raise GraphError(f"{self._label}: forward returned {shown(fields)}; expected a dspy.Prediction.")
        return {field: value for field, value in cast("State", fields).items() if field in self._outputs}


def _with_calls(calls: list[Any], more: list[Any] | None) -> list[Any]:
    """Reducer of the calls in the state. None resets them, for a new run in the same thread of LangGraph."""
    return [] if more is None else [*calls, *more]


def _method(program: Any, name: str) -> Any:
    # Reading `program.forward` would log a warning.
    return object.__getattribute__(program, name)


def _schema(name: str, fields: Mapping[str, Any]) -> Any:
    return TypedDict(name, dict(fields), total=False)  # type: ignore[operator]
