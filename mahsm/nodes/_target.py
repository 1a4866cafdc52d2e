"""Targets: whatever maps a state to an update, made into one thing that an edge can call."""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType, FunctionType
from typing import Any, TypeAlias, cast

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import Runnable, RunnableLambda, RunnableSequence, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langgraph.config import get_config
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.pregel.protocol import PregelProtocol
from langgraph.runtime import Runtime
from langgraph.types import Command
from typing_extensions import TypedDict

from mahsm._common import AsyncCall, Overlay, State, SyncCall, Update, shown
from mahsm.errors import NodeError
from mahsm.nodes._module_ref import ModuleRef
from mahsm.nodes._node import Node, node_name
from mahsm.nodes._parameter import annotations_of, converter, is_item, keys_of

Graph: TypeAlias = PregelProtocol[Any, Any, Any, Any]

_INJECTED = {"config": "RunnableConfig", "runtime": "Runtime", "store": "BaseStore", "writer": "StreamWriter"}
"""The parameters that LangGraph fills by name, and what their annotation says if they have one."""


@dataclass(frozen=True)
class Target:
    """What an edge calls for each item.

    Attributes:
        name: A legal node name.
        sync: Its blocking side, if it has one.
        async_: Its awaitable side, if it has one.
        injected: Which of LangGraph's own parameters it takes.
        source: What it was made of.
        graph: The graph inside, if there is one: each call is then a run of that graph.
        held: The DSPy module that it is, if it is one.
        reads: State keys that it is known to read.
        writes: State keys that it is known to write.
        batched: What computes something for many items at once, if it does: from the state and what is laid
            over it for each item to what then is laid over it.
        reports: Whether what it calls can be expected to say what it used: DSPy's and LangChain's models do.
        run_name: What its runs are called, if it does not say so itself.
        item: What it takes, if that is an item and no state, such as "str".
    """

    name: str
    sync: Callable[..., Update] | None
    async_: Callable[..., Any] | None
    injected: frozenset[str] = frozenset()
    source: Any = field(default=None, compare=False)
    graph: Graph | None = None
    held: ModuleRef | None = None
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    batched: Callable[[State, Sequence[Overlay]], Sequence[Overlay]] | None = None
    reports: bool = False
    item: str | None = None
    run_name: str | None = None

    @property
    def input_keys(self) -> frozenset[str] | None:
        """The state keys that the graph takes which it is; None if it is none, or takes any."""
        builder: Any = getattr(self.source, "builder", None) if self.is_graph else None
        keys: frozenset[str] | None = (
            None if builder is None else frozenset(builder.schemas[builder.input_schema])
        )
        return None if keys is None or "__root__" in keys else keys

    @property
    def is_graph(self) -> bool:
        """Whether it is a graph itself, and not something that holds one."""
        return isinstance(self.source, PregelProtocol)

    @property
    def module(self) -> Any:
        """The DSPy module that it is here and now, if it is one."""
        return None if self.held is None else self.held.current

    @property
    def is_unnamed(self) -> bool:
        """Whether it is a graph with the name that LangGraph gives to all that were compiled without one."""
        return self.name == node_name(Pregel.name) and isinstance(self.source, Runnable)

    def named(self, name: str) -> "Target":
        """The same under this name, in traces too, if it has none of its own."""
        if not self.is_unnamed:
            return self
        return replace(self, name=name, run_name=name)

    def bind(self, runtime: Runtime[Any]) -> tuple[SyncCall | None, AsyncCall | None]:
        """Both sides with LangGraph's parameters filled in, inside of a node."""
        config = get_config() if self.run_name is None else {**get_config(), "run_name": self.run_name}
        values = {
            "config": config,
            "runtime": runtime,
            "store": runtime.store,
            "writer": runtime.stream_writer,
        }
        given = {name: values[name] for name in self.injected}
        sync = functools.partial(self.sync, **given) if self.sync else None
        async_ = functools.partial(self.async_, **given) if self.async_ else None
        return sync, async_


@functools.singledispatch
def node_of(source: Any) -> Node | Callable[..., Any] | None:
    """Return the node of something that is made into one, such as an operator: its package registers how.

    It may be a function of the state, too.
    """
    return None


def as_target(source: Any, *, reader: str, of_items: bool = False) -> Target:
    """Make a target of a function, a Runnable, a graph, an edge, an operator or a DSPy module.

    Args:
        source: What to call.
        reader: Who wants it, for the error.
        of_items: Whether `state["item"]` is an item of a batch.

    Raises:
        NodeError: if `source` cannot be called with a state.
    """
    dspy: Any = sys.modules.get("dspy")  # whoever passes a DSPy module has imported it
    if dspy is not None and isinstance(source, dspy.Module):
        from mahsm.nodes._dspy_node import DSPyNode

        return _of_runnable(DSPyNode(source))
    if isinstance(source, StateGraph):
        raise NodeError(
            f"{reader}: the target is a StateGraph that is not compiled. Pass graph.compile(name=...)."
        )
    _check_no_model(source, reader)
    source = node_of(source) or source
    if isinstance(source, Runnable):
        return _of_runnable(cast("Runnable[Any, Any]", source))
    if isinstance(source, type) or not callable(source):
        hint = ", not a class: make an instance" if isinstance(source, type) else ""
        raise NodeError(
            f"{reader}: the target is {shown(source)}; expected a function of the state, a DSPy module, a "
            f"Runnable, a compiled graph or an edge{hint}."
        )
    return _of_function(cast("Callable[..., Any]", source), reader, of_items=of_items)


def plain_update(update: Update) -> Update:
    """What a target gave back, without the `Command` around it.

    Raises:
        NodeError: if the command also says where to go, which means nothing for one item of many.
    """
    if not isinstance(update, Command):
        return update
    command = cast("Command[Any]", update)
    if command.goto or command.graph is not None or command.resume is not None:
        raise NodeError(
            f"the target returned {shown(command)}; only an update can come out of an item. Return the "
            "update, and route after the edge, on what it wrote."
        )
    return command.update


def _of_runnable(source: "Runnable[Any, Any]") -> Target:
    name, graph = node_name(source.get_name()), _graph_in(source)
    if isinstance(source, Node):
        has_sync, has_async = True, source.is_async
    elif isinstance(source, RunnableLambda):
        has_sync, has_async = hasattr(source, "func"), hasattr(source, "afunc")
    else:
        # The default is a thread of the loop's few.
        has_sync, has_async = True, type(source).ainvoke is not Runnable.ainvoke
    return Target(
        name,
        source.invoke if has_sync else None,
        source.ainvoke if has_async else None,
        # Its own config is merged with this one.
        injected=frozenset() if isinstance(source, Node) else frozenset({"config"}),
        source=source,
        graph=graph,
        held=source.held.get("") if isinstance(source, Node) else None,
        reads=frozenset(getattr(source, "reads", ())) if isinstance(source, Node) else frozenset(),
        writes=frozenset(getattr(source, "writes", ())) if isinstance(source, Node) else frozenset(),
        batched=getattr(source, "batched", None) if isinstance(source, Node) else None,
        reports=graph is not None or isinstance(source, Node) or not isinstance(source, RunnableLambda),
    )


def _check_no_model(source: Any, reader: str) -> None:
    """Refuse what would hand the state to a language model as it is, which takes messages or a string."""
    first = source
    while not isinstance(first, BaseLanguageModel):
        match first:
            case RunnableBindingBase():  # bind_tools, with_config
                first = cast("Any", first).bound
            case RunnableSequence():  # with_structured_output
                first = cast("Any", first).first
            case RunnableWithFallbacks():
                first = cast("Any", first).runnable
            case _:
                return
    raise NodeError(
        f"{reader}: the target hands the state to the language model {type(cast('Any', first)).__name__}, "
        "which takes messages or a string. Pass prompt | model, or a function such as lambda state: "
        "model.invoke(state['item'])."
    )


def _of_function(source: Callable[..., Any], reader: str, *, of_items: bool) -> Target:
    inner = source
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__name__", type(inner).__name__)
    call = getattr(inner, "__call__", None)  # noqa: B004  of an object
    if any(inspect.isgeneratorfunction(part) or inspect.isasyncgenfunction(part) for part in (inner, call)):
        raise NodeError(
            f"{reader}: the target {name} is a generator function, whose call gives a generator and no "
            "value. Return what it yields, as a list; for parts as they come, take LangGraph's writer as a "
            "parameter and call writer(part)."
        )
    injected = _injected(source, name, reader)
    given, result = annotations_of(source, inner)
    convert = converter(given, of_items=of_items)
    function = source if convert is None else _converted(source, convert)
    graph = _graph_in(source)
    made = functools.partial(
        Target,
        injected=injected,
        source=source,
        graph=graph,
        reads=keys_of(given),
        writes=keys_of(result),
        item=getattr(given, "__name__", str(given)) if is_item(given) else None,
        reports=graph is not None,
    )
    if inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(call):
        return made(node_name(name), None, function)
    return made(node_name(name), function, None)


def _injected(source: Callable[..., Any], name: str, reader: str) -> frozenset[str]:
    try:
        signature = inspect.signature(source)
    except (TypeError, ValueError):  # some builtins have none
        return frozenset()
    taken = frozenset(
        name for name, marker in _INJECTED.items() if _takes(signature.parameters.get(name), marker)
    )
    try:
        signature.bind(object(), **dict.fromkeys(taken))
    except TypeError as error:
        raise NodeError(
            f"{reader}: the target {name}{signature} cannot be called with a state: {error}. Expected "
            f"{name}(state), and besides only {', '.join(_INJECTED)}. Fix other arguments with "
            "functools.partial."
        ) from None
    return taken


def _takes(parameter: inspect.Parameter | None, marker: str) -> bool:
    if parameter is None or parameter.kind in (
        parameter.POSITIONAL_ONLY,
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    ):
        return False
    return (
        parameter.default is parameter.empty
        or parameter.annotation is parameter.empty
        or marker in str(parameter.annotation)
    )


def _converted(function: Callable[..., Any], convert: Callable[[State], Any]) -> Callable[..., Any]:
    def converted(state: State, **injected: Any) -> Any:
        return function(convert(state), **injected)

    return converted


class _Probe(TypedDict, total=False):
    probe: None


def _graph_in(source: Any) -> Graph | None:
    """The graph that LangGraph itself would find in a node made of `source`."""
    if isinstance(source, PregelProtocol):
        return cast("Graph", source)
    if _holds_nothing(source):
        return None
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(_Probe)
    try:
        # Of annotations that it would not inject; ours are checked above.
        with warnings.catch_warnings(action="ignore"):
            builder.add_node("probe", source, input_schema=_Probe)
    except ValueError:  # a builtin without a signature
        return None
    builder.set_entry_point("probe")
    compiled: Any = builder.compile()
    return next((graph for _, graph in compiled.get_subgraphs()), None)


def _holds_nothing(source: Any) -> bool:
    """Whether it is a function that uses plain values only, and so no graph; to let LangGraph look takes a
    while.
    """
    if not isinstance(source, FunctionType):
        return False
    try:
        values = [cell.cell_contents for cell in source.__closure__ or ()]
    except ValueError:  # a cell that is filled later
        return False
    names = _names(source.__code__) & source.__globals__.keys()
    return all(type(value) in _PLAIN for value in [*values, *map(source.__globals__.__getitem__, names)])


_PLAIN = (int, float, complex, bool, str, bytes, type(None))


def _names(code: CodeType) -> set[str]:
    """The names that code uses, in functions inside of it too."""
    return set(code.co_names).union(*(_names(part) for part in code.co_consts if isinstance(part, CodeType)))
