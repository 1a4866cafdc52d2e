"""`GraphModule`: a compiled LangGraph as a DSPy program."""

import asyncio
import copy
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, Self, TypeAlias, cast

import dspy
from langchain_core.runnables import RunnableConfig
from langgraph.pregel import Pregel

from mahsm._common import missing, shown
from mahsm._model_calls import restored_context
from mahsm._waiting import tasks
from mahsm.errors import GraphError, MissingKeyError
from mahsm.graph._find import Found, find_modules
from mahsm.graph._source import source_of, with_source
from mahsm.graph._streams import streamed, streamed_async
from mahsm.graph._trace import Trace
from mahsm.nodes._internal import HoldsGraph, ModulePlace, substituted

Names: TypeAlias = Sequence[str] | Mapping[str, str]
"""State keys; or from each field of the prediction to its state key."""


class GraphModule(HoldsGraph, dspy.Module):
    """A compiled LangGraph as a DSPy program, which DSPy can evaluate and optimise.

    The program has copies of all DSPy modules in the graph: in `dspy_node`s, edges, subgraphs, and in the
    operators and judges of edges. While it runs, its modules replace those of the graph. So optimisers,
    `set_lm` and `load` change the program, and not the graph, until you call `apply`. Copies of the program
    share one compiled graph, and can run at the same time.

    It runs without the graph's checkpointer and cache: a program is called with arguments, and keeps no
    state between calls.

    Args:
        graph: A compiled graph, with nodes made by `dspy_node` or edges over DSPy modules.
        outputs: State keys that are the fields of the prediction, or `{field: state key}`; by default all
            keys that the graph returns, except inputs that it has not changed.
        config: A LangGraph config for each run: `recursion_limit`, `max_concurrency`, `configurable`,
            `callbacks`...
        context: The run's context, for a graph that has a `context_schema`.
        frozen: Nodes whose modules the program leaves out: names, or paths such as `"answer/Predict"`.

    Attributes:
        graph: The graph.
        nodes: The program's modules, by their path of node names in the graph.

    Raises:
        GraphError: immediately, if this is not a compiled graph, it has no DSPy module, a key or name is
            unknown, or functions of the graph call modules themselves; when called, if an argument is
            unknown, an output was not written, or the run was interrupted.

    Example:
        >>> import dspy
        >>> from typing import TypedDict
        >>> from mahsm import GraphModule, connect, vmap
        >>> from mahsm.testing import FakeLM
        >>> from langgraph.graph import END, START, StateGraph
        >>> class State(TypedDict):
        ...     words: list[str]
        ...     sizes: list[int]
        >>> count = vmap(dspy.Predict("item -> size: int"), batch_key="words", out_key="sizes", result="size")
        >>> graph = connect(StateGraph(State), START, count, END).compile()
        >>> program = GraphModule(graph, outputs=["sizes"])
        >>> [name for name, _ in program.named_predictors()]
        ["nodes['vmap_Predict/Predict']"]
        >>> program.set_lm(FakeLM(lambda call: {"size": len(call.inputs["item"])}))
        >>> program(words=["one", "three"]).sizes
        [3, 5]
    """

    def __init__(
        self,
        graph: Any,
        *,
        outputs: Names | None = None,
        config: RunnableConfig | None = None,
        context: Any = None,
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not isinstance(graph, Pregel):
            raise GraphError(
                f"GraphModule: got {shown(graph)}; expected a compiled graph. Pass builder.compile()."
            )
        compiled = cast("Pregel[Any, Any, Any, Any]", graph)
        found = find_modules(compiled)
        places = _kept(found, frozen)
        self._live = LiveGraph(compiled, places, found.awaits, _pairs(compiled, outputs))
        self._config = config
        self._context = context
        self.nodes: dict[str, Any] = _copies({path: place.module for path, place in places.items()})
        source = partial(
            source_of, type(self).__name__, compiled, dict(self.nodes), self._live.takes, self._live.gives
        )
        self.__class__ = with_source(type(self), source)

    @property
    def graph(self) -> Any:
        return self._live.graph

    @property
    def takes(self) -> frozenset[str] | None:
        """The inputs of the graph, its state keys; None if it takes any."""
        return self._live.takes

    @property
    def gives(self) -> frozenset[str] | None:
        """The fields of the prediction, if `outputs` is given; else None."""
        return self._live.gives

    @property
    def title(self) -> str | None:
        name = self.graph.get_name()
        return None if name == Pregel.name else name

    def with_nodes(self, nodes: Mapping[str, dspy.Module]) -> Self:
        """Return a copy of the program with other modules at these paths."""
        new = copy.copy(self)
        new.nodes = {**self.nodes, **nodes}
        return new

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Run the graph on these inputs."""
        with streamed(), self._running(inputs) as arguments:
            live = self._live
            if live.awaits:
                return live.prediction(tasks.call(partial(live.runs.ainvoke, **arguments)), inputs)
            return live.prediction(live.runs.invoke(**arguments), inputs)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Async version of `forward`; one that an optimiser has set (`KNNFewShot`) runs in a thread."""
        if "forward" in vars(self):
            return await asyncio.to_thread(partial(vars(self)["forward"], **inputs))
        async with streamed_async():
            with self._running(inputs) as arguments:
                return self._live.prediction(await self._live.runs.ainvoke(**arguments), inputs)

    @contextmanager
    def _running(self, inputs: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        self._live.check(inputs)
        arguments = {"input": inputs, "config": self._config, "context": self._context}
        with (
            restored_context(),
            substituted({place: self.nodes[path] for path, place in self._live.places.items()}),
            self._traced(),
        ):
            yield arguments

    @contextmanager
    def _traced(self) -> Generator[None, None, None]:
        """Add the entries of the run to the trace around it, if any, even if the run fails."""
        around = cast("list[Any] | None", dspy.settings.trace)
        if around is None:
            yield
            return
        trace = Trace()
        try:
            with dspy.context(trace=trace):
                yield
        finally:
            around.extend(trace.ordered())
            del around[: max(0, len(around) - cast("int", dspy.settings.max_trace_size))]

    def apply(self) -> Any:
        """Put copies of the program's modules into the graph itself; return the graph."""
        for path, module in _copies(self.nodes).items():
            place = self._live.places[path]
            _keep_callbacks(place.module, module)
            place.put(module)
        return self.graph

    # Copies, files.

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = object.__new__(type(self))
        memo[id(self)] = new
        copied = {
            "nodes": _copies(self.nodes, memo),
            "history": [],
            "callbacks": list(vars(self)["callbacks"]),
        }
        vars(new).update(vars(self) | copied)
        return new

    def __copy__(self) -> Self:
        new = object.__new__(type(self))
        vars(new).update(vars(self) | {"nodes": dict(self.nodes)})
        return new

    def __reduce__(self) -> NoReturn:
        raise GraphError(
            "GraphModule: a compiled graph cannot be pickled. Save its modules' state with "
            "program.save('program.json'), and load it with GraphModule(graph).load('program.json') after "
            "building the graph again."
        )

    def save(self, path: Any, save_program: bool = False, modules_to_serialize: Any = None) -> None:
        """Save the state of the program's modules, as DSPy does, to a `.json` file.

        Raises:
            GraphError: with `save_program=True`.
        """
        if save_program:
            self.__reduce__()
        super().save(path, modules_to_serialize=modules_to_serialize)

    def load_state(self, state: dict[str, Any], **options: Any) -> None:
        """Load a state from `dump_state` or `save`.

        Raises:
            GraphError: if the state has other predictors.
        """
        expected = {name for name, _ in cast("list[tuple[str, Any]]", self.named_parameters())}
        given = set(state) - {"metadata"}
        if expected != given:
            lacking, unknown = _listed(expected - given), _listed(given - expected)
            raise GraphError(
                "GraphModule: the state is of another graph. Predictors of this graph that it lacks: "
                f"{lacking}; that this graph lacks: {unknown}. Build the graph with the node names that it "
                "had."
            )
        super().load_state(state, **options)


class LiveGraph:
    """The graph that all copies of a program share.

    Attributes:
        graph: The user's graph.
        runs: The same graph without checkpointer and cache.
        places: The places of its DSPy modules, by path.
        awaits: True if it can only be awaited.
        takes: Its inputs; None if it takes any.
    """

    def __init__(
        self, graph: Any, places: dict[str, ModulePlace], awaits: bool, outputs: dict[str, str] | None
    ) -> None:
        self.graph = graph
        # With `checkpointer=None` it would use the checkpointer of a graph around it.
        self.runs = graph.copy(update={"checkpointer": False, "cache": None})
        self.places = places
        self.awaits = awaits
        self.takes = _keys(graph, "input_schema")
        self._outputs = outputs

    @property
    def gives(self) -> frozenset[str] | None:
        return None if self._outputs is None else frozenset(self._outputs)

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Raise `GraphError` for unknown inputs, which the graph would silently drop."""
        if self.takes is not None and (unknown := inputs.keys() - self.takes):
            raise GraphError(
                f"GraphModule: got {_listed(unknown)}; the graph takes {_listed(self.takes)}. "
                "Name the inputs as its state keys."
            )

    def prediction(self, state: Any, inputs: Mapping[str, Any]) -> dspy.Prediction:
        """Return the prediction for the final state of a run."""
        if not isinstance(state, Mapping):
            return dspy.Prediction(output=state)
        values = cast("Mapping[str, Any]", state)
        if "__interrupt__" in values:
            raise GraphError(
                "GraphModule: the graph called interrupt(), and a program runs to its end. Answer it inside "
                "the graph, or optimise the part before it."
            )
        if self._outputs is None:
            return dspy.Prediction(
                **{key: value for key, value in values.items() if not _is_as_given(key, value, inputs)}
            )
        for field, key in self._outputs.items():
            if key not in values:
                raise MissingKeyError(
                    f"GraphModule: {missing(values, key)} The run did not write the field {field!r}."
                )
        return dspy.Prediction(**{field: values[key] for field, key in self._outputs.items()})


def _is_as_given(key: str, value: Any, inputs: Mapping[str, Any]) -> bool:
    """Return whether a key is an input that the run has not changed."""
    if key not in inputs or value is inputs[key]:
        return key in inputs
    try:
        return bool(value == inputs[key])
    except Exception:  # noqa: BLE001
        # Arrays have no single truth value.
        return False


def _kept(found: Found, frozen: Sequence[str]) -> dict[str, ModulePlace]:
    """Return the places whose modules are part of the program."""
    if isinstance(frozen, str):
        raise GraphError(
            f"GraphModule: frozen={frozen!r} is a string; expected a list of nodes, such as "
            f"frozen=[{frozen!r}]."
        )

    def is_frozen(path: str) -> bool:
        return any(path == name or path.startswith(f"{name}/") for name in frozen)

    paths = [*found.places, *(path for path, _ in found.hidden)]
    for name in frozen:
        if not any(path == name or path.startswith(f"{name}/") for path in paths):
            raise GraphError(
                f"GraphModule: frozen names {name!r}, which has no DSPy module; there are "
                f"{', '.join(map(repr, paths))}."
            )
    for path, module in found.hidden:
        if not is_frozen(path):
            node = path.split("/")[0]
            raise GraphError(
                f"GraphModule: the node {path!r} calls {type(module).__name__} itself, where it cannot "
                "be replaced by its optimised copy. Make the module a node with dspy_node(...), or pass "
                f"frozen=[{node!r}] to leave it out."
            )
    places = {path: place for path, place in found.places.items() if not is_frozen(path)}
    if not places:
        raise GraphError(
            "GraphModule: the graph holds no DSPy module; expected nodes made with dspy_node(...), or edges "
            "over DSPy modules."
        )
    return places


def _pairs(graph: Any, outputs: Names | None) -> dict[str, str] | None:
    if outputs is None:
        return None
    if isinstance(outputs, str):
        raise GraphError(
            f"GraphModule: outputs={outputs!r} is a string; expected a list of state keys, such as "
            f"outputs=[{outputs!r}]."
        )
    pairs = dict(outputs) if isinstance(outputs, Mapping) else {key: key for key in outputs}
    known = _keys(graph, "output_schema")
    if known is not None and (unknown := set(pairs.values()) - known):
        raise GraphError(
            f"GraphModule: outputs names {_listed(unknown)}; the graph returns {_listed(known)}."
        )
    return pairs


def _keys(graph: Any, schema: str) -> frozenset[str] | None:
    """Return the keys of a graph's schema; None if it has any."""
    builder = getattr(graph, "builder", None)
    keys = (
        frozenset[str](builder.schemas[getattr(builder, schema)])
        if builder is not None
        else frozenset({"__root__"})
    )
    return None if "__root__" in keys else keys


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"


def _copies(modules: Mapping[str, dspy.Module], memo: dict[int, Any] | None = None) -> dict[str, dspy.Module]:
    """Copy modules; if modules share a part, their copies share its copy."""
    try:
        return copy.deepcopy(dict(modules), memo)
    except Exception:  # noqa: BLE001
        # A part cannot be copied; DSPy's `deepcopy` then keeps that part.
        copies = {id(module): module.deepcopy() for module in modules.values()}
        return {path: copies[id(module)] for path, module in modules.items()}


def _keep_callbacks(old: dspy.Module, new: dspy.Module) -> None:
    """Set the callbacks of a copy, which DSPy does not copy."""
    known = dict(old.named_sub_modules(dspy.Module))
    for name, module in new.named_sub_modules(dspy.Module):
        if name in known:
            cast("Any", module).callbacks = list(cast("Any", known[name]).callbacks)
