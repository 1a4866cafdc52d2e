"""`Target`: one form for functions, Runnables, graphs, edges, operators and modules that an edge calls."""

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
"""Names of parameters that LangGraph fills, and a part of their annotation, if they have one."""


@dataclass(frozen=True)
class Target:
    """The callable of an edge: it maps a state to an update.

    Attributes:
        name: A valid node name.
        sync: Its sync function, if any.
        async_: Its async function, if any.
        injected: The parameters that LangGraph fills.
        source: The object that it was made from.
        graph: The graph inside, if any: each call is then a run of that graph.
        held: The reference to its DSPy module, if it is one.
        reads: State keys that it is known to read.
        writes: State keys that it is known to write.
        batched: Computes values for many items together, if it can: from the state and each item's overlay
            to the new overlays.
        reports: True if its calls are expected to report their usage, as DSPy's and LangChain's models do.
        run_name: Name of its runs, if it has no name of its own.
        item: The type of its parameter, such as "str", if that is an item and not a state.
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
        """The input keys, if it is a graph; None if it is not, or takes any keys."""
        builder: Any = getattr(self.source, "builder", None) if self.is_graph else None
        keys: frozenset[str] | None = (
            None if builder is None else frozenset(builder.schemas[builder.input_schema])
        )
        return None if keys is None or "__root__" in keys else keys

    @property
    def is_graph(self) -> bool:
        """True if it is a graph itself, and not a function or node that holds one."""
        return isinstance(self.source, PregelProtocol)

    @property
    def module(self) -> Any:
        """The DSPy module to call here, if it is one."""
        return None if self.held is None else self.held.current

    @property
    def model(self) -> Any:
        """What calls models here, and knows their provider: the DSPy module or the binding, if it is one."""
        if self.held is not None:
            return self.held.current
        return (
            self.source if hasattr(self.source, "_mahsm_provider") else getattr(self.source, "binding", None)
        )

    @property
    def is_unnamed(self) -> bool:
        """True if it is a graph with LangGraph's default name."""
        return self.name == node_name(Pregel.name) and isinstance(self.source, Runnable)

    def named(self, name: str) -> "Target":
        """Return a copy with this name, also in traces, if it has no name of its own."""
        if not self.is_unnamed:
            return self
        return replace(self, name=name, run_name=name)

    def bind(self, runtime: Runtime[Any]) -> tuple[SyncCall | None, AsyncCall | None]:
        """Return the sync and async functions with LangGraph's parameters filled in; called in a node."""
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
    """Return a node, or a function of the state, made from a source, such as an operator; None for types
    without a registered function.
    """
    # Bindings of models, which are made before LangGraph is imported.
    make: Any = getattr(cast("Any", type(source)), "_mahsm_node", None)
    return None if make is None else make(source)


def as_target(source: Any, *, reader: str, of_items: bool = False) -> Target:
    """Make a target from a function, a Runnable, a graph, an edge, an operator or a DSPy module.

    Args:
        source: The object to call.
        reader: Name of the edge, for errors.
        of_items: True if `state["item"]` is an item of a batch.

    Raises:
        NodeError: if `source` cannot be called with a state.
    """
    # Code that passes a DSPy module has imported DSPy.
    dspy: Any = sys.modules.get("dspy")
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
        hint = ", not a class: create an instance" if isinstance(source, type) else ""
        raise NodeError(
            f"{reader}: the target is {shown(source)}; expected a function of the state, a DSPy module, a "
            f"Runnable, a compiled graph or an edge{hint}."
        )
    return _of_function(cast("Callable[..., Any]", source), reader, of_items=of_items)


def plain_update(update: Update) -> Update:
    """Return a target's result without the `Command` around it.

    Raises:
        NodeError: if the command also has `goto`, `graph` or `resume`, which do not apply to an item.
    """
    if not isinstance(update, Command):
        return update
    command = cast("Command[Any]", update)
    if command.goto or command.graph is not None or command.resume is not None:
        raise NodeError(
            f"the target returned {shown(command)}; an item can return only an update. Return the "
            "update, and route after the edge, by the keys that it wrote."
        )
    return command.update


def _of_runnable(source: "Runnable[Any, Any]") -> Target:
    name, graph = node_name(source.get_name()), _graph_in(source)
    if isinstance(source, Node):
        has_sync, has_async = True, source.is_async
    elif isinstance(source, RunnableLambda):
        has_sync, has_async = hasattr(source, "func"), hasattr(source, "afunc")
    else:
        # The default `ainvoke` runs `invoke` in the loop's thread pool, which has few threads.
        has_sync, has_async = True, type(source).ainvoke is not Runnable.ainvoke
    return Target(
        name,
        source.invoke if has_sync else None,
        source.ainvoke if has_async else None,
        # A Node merges the config of the running node by itself.
        injected=frozenset() if isinstance(source, Node) else frozenset({"config"}),
        source=source,
        graph=graph,
        held=source.held.get("") if isinstance(source, Node) else None,
        reads=frozenset(getattr(source, "reads", ())) if isinstance(source, Node) else frozenset(),
        writes=frozenset(getattr(source, "writes", ())) if isinstance(source, Node) else frozenset(),
        batched=getattr(source, "batched", None) if isinstance(source, Node) else None,
        reports=graph is not None or isinstance(source, Node) or not isinstance(source, RunnableLambda),
        item=source.item if isinstance(source, Node) else None,
    )


def _check_no_model(source: Any, reader: str) -> None:
    """Raise `NodeError` if the state would be passed to a language model, which takes messages."""
    first = source
    while not isinstance(first, BaseLanguageModel):
        match first:
            case RunnableBindingBase():
                # Made by bind_tools and with_config.
                first = cast("Any", first).bound
            case RunnableSequence():
                # Made by with_structured_output.
                first = cast("Any", first).first
            case RunnableWithFallbacks():
                first = cast("Any", first).runnable
            case _:
                return
    raise NodeError(
        f"{reader}: the target passes the state to the language model {type(cast('Any', first)).__name__}, "
        "which takes messages or a string. Pass prompt | model, or a function such as lambda state: "
        "model.invoke(state['item'])."
    )


def _of_function(source: Callable[..., Any], reader: str, *, of_items: bool) -> Target:
    inner = source
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(source, "__name__", None) or getattr(inner, "__name__", type(inner).__name__)
    # The method of a callable object, which may be a coroutine function.
    call = getattr(inner, "__call__", None)  # noqa: B004
    if any(inspect.isgeneratorfunction(part) or inspect.isasyncgenfunction(part) for part in (inner, call)):
        raise NodeError(
            f"{reader}: the target {name} is a generator function, whose call returns a generator. "
            "Return its values as a list; to stream them, take LangGraph's writer as a parameter and call "
            "writer(value)."
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
    except (TypeError, ValueError):
        # Some builtins lack a signature.
        return frozenset()
    taken = frozenset(
        name for name, marker in _INJECTED.items() if _takes(signature.parameters.get(name), marker)
    )
    try:
        signature.bind(object(), **dict.fromkeys(taken))
    except TypeError as error:
        raise NodeError(
            f"{reader}: the target {name}{signature} cannot be called with a state: {error}. Expected "
            f"{name}(state), with no other required parameters than {', '.join(_INJECTED)}. Set others with "
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
    """Return the graph that LangGraph would find in a node made from `source`.

    LangGraph has no public function for that, so it is asked by way of a graph with such a node. That takes a
    while, which `_holds_nothing` saves for simple functions.
    """
    if isinstance(source, PregelProtocol):
        return cast("Graph", source)
    if _holds_nothing(source):
        return None
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(_Probe)
    try:
        # LangGraph warns of annotations that it would not inject; `_injected` has checked these.
        with warnings.catch_warnings(action="ignore"):
            builder.add_node("probe", source, input_schema=_Probe)
    except ValueError:
        # This is a builtin without a signature.
        return None
    builder.set_entry_point("probe")
    compiled: Any = builder.compile()
    return next((graph for _, graph in compiled.get_subgraphs()), None)


def _holds_nothing(source: Any) -> bool:
    """Return whether `source` is a function whose closure and globals hold plain values only."""
    if not isinstance(source, FunctionType):
        return False
    try:
        values = [cell.cell_contents for cell in source.__closure__ or ()]
    except ValueError:
        # A cell of the closure is set later.
        return False
    names = _names(source.__code__) & source.__globals__.keys()
    return all(type(value) in _PLAIN for value in [*values, *map(source.__globals__.__getitem__, names)])


_PLAIN = (int, float, complex, bool, str, bytes, type(None))


def _names(code: CodeType) -> set[str]:
    """Return the names that code uses, including those in nested functions."""
    return set(code.co_names).union(*(_names(part) for part in code.co_consts if isinstance(part, CodeType)))
