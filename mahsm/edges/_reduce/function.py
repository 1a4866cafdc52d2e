"""`reduce_edge`: reduce a list in the state to one value."""

import asyncio
import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from mahsm._common import State, as_dict, batch, check, read, shown
from mahsm._spans import EdgeSpan
from mahsm._waiting import THREAD, StopCallbacks, Way, sides, tasks
from mahsm.edges._shared.constructor import constructor
from mahsm.edges._shared.drawing import Compiled, DrawnGraph, arrow, drawn_as
from mahsm.edges._shared.edge import Edge
from mahsm.edges._shared.items import Item, current_item, enter_item
from mahsm.edges._shared.reducer import Reducer
from mahsm.edges._shared.run import needs_no_tasks
from mahsm.edges._shared.session import Session, session
from mahsm.edges._shared.streams import (
    as_of_node,
    as_of_task,
    heard_run,
    unheard,
    writer_of,
)
from mahsm.errors import EdgeError, ReducerError
from mahsm.nodes._internal import Node, node_name, position
from mahsm.policies import ItemError, Penalize, is_item_error

OnErrors: TypeAlias = Literal["drop", "raise"] | Penalize[Any]

_NO_DEFAULT: Any = object()


class _ReduceState(TypedDict):
    """State of the subgraph: only its result."""

    value: Any


@dataclass(frozen=True)
class Reduce:
    """The specification of one `reduce_edge`: a subgraph with one node, named after the reducer."""

    name: str
    reducer_name: str
    reducer: Callable[..., Any]
    takes_state: bool
    input_key: str
    output_key: str
    errors: OnErrors
    default: Any
    judges: bool = False
    by_place: bool = False

    def lower(self) -> Compiled:
        """Make the subgraph."""

        async def reduce(way: Way, _: Any, config: RunnableConfig) -> Any:
            node, call = position.get().reducing
            with self._as_of_node(config, node):
                return {"value": await self._called(way, call)}

        builder: StateGraph[Any, Any, Any, Any] = StateGraph(_ReduceState)
        builder.add_node(self.reducer_name, Node(*sides(reduce), name=self.reducer_name))
        builder.add_edge(START, self.reducer_name)
        builder.add_edge(self.reducer_name, END)
        node = self.reducer_name
        arrows = [
            arrow(START, node, f"each of {self.input_key}", many=True),
            arrow(node, END, self.output_key),
        ]
        return drawn_as(DrawnGraph, builder.compile(name=self.name), arrows=arrows)

    async def run(self, graph: Compiled, way: Way, state: Any, config: RunnableConfig) -> State:
        """Run the subgraph."""
        values = as_dict(state)
        kind, shown_state = "judge" if self.judges else "reduce", {self.input_key: values.get(self.input_key)}
        options: Any = {"shown": shown_state, "calls_models": False}
        async with heard_run(way, self.name, config, values) as heard:
            with (
                session(kind, self.name, way, values, heard.config, **options) as around,
                _edges_inside_stop(way),
            ):
                value = await self._value(graph, around, self._begun(around))
                heard.output = update = {self.output_key: value}
                if around.span is not None:
                    _show(around.span, update, value)
                return update

    async def _value(self, graph: Compiled, around: Session, call: Callable[[], Any]) -> Any:
        way, node = around.way, around.config
        if needs_no_tasks(node):
            with self._as_of_node(as_of_task(node, self.reducer_name), node):
                return await self._called(way, call)
        token = position.set(position.get().calling((node, call)))
        try:
            with unheard(node) as config:
                found = await way.call(lambda: graph.invoke({}, config), lambda: graph.ainvoke({}, config))
                return found["value"]
        finally:
            position.reset(token)

    async def _called(self, way: Way, call: Callable[[], Any]) -> Any:
        if way is THREAD or inspect.iscoroutinefunction(self.reducer):
            return await tasks.call_as(way, call)
        value = await asyncio.to_thread(call)
        return await value if inspect.isawaitable(value) else value

    @contextmanager
    def _as_of_node(self, config: RunnableConfig, node: RunnableConfig) -> Generator[None, None, None]:
        """Return a block in which calls look like calls of the edge's node."""
        token = var_child_runnable_config.set(as_of_node(config, node, self.name, writer_of(node)))
        try:
            yield
        finally:
            var_child_runnable_config.reset(token)

    def _begun(self, around: Session) -> Callable[[], Any]:
        """Return the call of the reducer, and note its inputs in the span."""
        key = self.input_key
        inputs = batch(read(around.state, key, self.name, "input_key"), self.name, key, "input_key")
        if around.span is not None:
            failed = sum(map(is_item_error, inputs))
            around.span.note({"fan_in": len(inputs), "errors": failed, "reducer": self.reducer_name})
        return self._call(around.state, inputs)

    def _call(self, values: State, inputs: list[Any]) -> Callable[[], Any]:
        kept = self._without_errors(inputs)
        if not kept and self.default is not _NO_DEFAULT:
            return lambda: self.default
        return partial(self.reducer, kept, values) if self.takes_state else partial(self.reducer, kept)

    def _without_errors(self, inputs: list[Any]) -> list[Any]:
        failed = [value for value in inputs if is_item_error(value)]
        if not failed:
            return inputs
        if isinstance(self.errors, Penalize):
            return [self.errors.value if is_item_error(value) else value for value in inputs]
        kept = [value for value in inputs if not is_item_error(value)]
        if self.errors == "raise":
            raise ReducerError(
                f"{self.name}: {len(failed)} of {len(inputs)} inputs failed, and errors='raise'; "
                f"{_causes(failed)}. Pass errors='drop' or errors=penalize(value) to go on without them."
            )
        if not kept and self.default is _NO_DEFAULT:
            raise ReducerError(
                f"{self.name}: all {len(inputs)} inputs failed; {_causes(failed)}. No value is left to "
                "reduce; pass default= to go on."
            )
        if self.by_place and kept:
            return [None if is_item_error(value) else value for value in inputs]
        return kept


def _show(span: EdgeSpan, update: State, value: Any) -> None:
    """Show the update in the span; a string or a number is also noted as the decision."""
    span.show(update)
    if isinstance(value, str | int | float):
        span.note({"decision": shown(value) if isinstance(value, str) else value})


@contextmanager
def _edges_inside_stop(way: Way) -> Generator[None, None, None]:
    """Stop edges that a blocking reducer runs when the block is cancelled.

    Inside an item, the edge around does that.
    """
    if way is THREAD or current_item() is not None:
        yield
        return
    inside = StopCallbacks()
    token = enter_item(Item((), (), inside))
    try:
        yield
    except BaseException as error:
        inside.stop(error)
        raise
    finally:
        position.reset(token)


@constructor(
    **dict.fromkeys(
        ("retry", "rate_limit", "timeout"), "Reducers that call models take it, such as llm_judge_select."
    ),
    budget="A budget goes around the run: with budget(...).",
)
def reduce_edge(
    *,
    # what is reduced, and what comes out
    input_key: str,
    output_key: str,
    reducer: Callable[..., Any] | Reducer,
    name: str | None = None,
    # what becomes of failures, and of an empty list
    errors: OnErrors = "drop",
    default: Any = _NO_DEFAULT,
) -> Edge:
    """Reduce a list in the state to one value.

    Args:
        input_key: State key of the list, such as the `out_key` of a `vmap`.
        output_key: State key that gets the value.
        reducer: A function from the list to the value, sync or async; a second parameter, if there is one,
            gets the state as a dict. Or an object with `init`, `add`, `decided` and `result`, which takes the
            values one by one until it is decided. `mahsm.reducers` has the usual ones.
        name: Node name; by default `reduce_` and the reducer's name.
        errors: Treatment of `ItemError`s in the list: `"drop"` leaves them out (a reducer with a true
            `by_place`, such as `mahsm.learn.attend`, gets None in their place), `"raise"` raises,
            `penalize(value)` puts `value` in their place.
        default: The value if the list is empty or all inputs failed. By default the reducer gets an empty
            list, and it is an error if all inputs failed.

    Returns:
        An edge that reads `input_key` and writes `output_key`.

    Raises:
        EdgeError: immediately, for invalid arguments.
        ReducerError: when run, if inputs failed and `errors="raise"`, if all inputs failed, or if the
            reducer cannot decide.
        StateError: when run, if the list is missing or not a list.

    Example:
        >>> from mahsm import reduce_edge
        >>> from mahsm.reducers import majority_vote
        >>> edge = reduce_edge(input_key="votes", output_key="winner", reducer=majority_vote)
        >>> edge.invoke({"votes": ["a", "b", "a"]})
        {'winner': 'a'}
    """
    edge = f"reduce_edge({output_key!r})" if name is None else f"reduce_edge {name!r}"
    for argument, value in {"input_key": input_key, "output_key": output_key}.items():
        check.key(edge, argument, value)
    if not isinstance(reducer, Reducer):
        check.function(
            edge,
            "reducer",
            reducer,
            "a function from a list to a value, such as mahsm.reducers.majority_vote",
        )
    if not isinstance(errors, Penalize):
        check.choice(edge, "errors", errors, ("drop", "raise"))
    if name is not None:
        check.name(edge, name)
    reducer_name = _name(reducer)
    spec = Reduce(
        name=name or f"reduce_{reducer_name}",
        reducer_name=reducer_name,
        reducer=partial(_fold, reducer) if isinstance(reducer, Reducer) else reducer,
        takes_state=not isinstance(reducer, Reducer) and _takes_state(edge, reducer),
        input_key=input_key,
        output_key=output_key,
        errors=errors,
        default=default,
        judges=bool(getattr(reducer, "judges", False)),
        by_place=bool(getattr(reducer, "by_place", False)),
    )
    graph = spec.lower()
    return Edge(
        *sides(partial(spec.run, graph)),
        name=spec.name,
        graph=graph,
        reads=[input_key],
        writes=[output_key],
        children={"": reducer},
    )


def _name(reducer: Any) -> str:
    inner = reducer.func if isinstance(reducer, partial) else reducer
    return node_name(getattr(inner, "__name__", type(inner).__name__))


def _fold(reducer: Reducer, values: Sequence[Any]) -> Any:
    """Give a reducer the values one by one, until it is decided."""
    state = reducer.init(len(values))
    for value in values:
        state = reducer.add(state, value)
        if reducer.decided(state):
            break
    return reducer.result(state)


def _takes_state(edge: str, reducer: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(reducer)
    except (TypeError, ValueError):
        # Builtins such as `max` have no signature.
        return False
    for takes_state in (False, True):
        try:
            signature.bind(*[None] * (1 + takes_state))
            return takes_state
        except TypeError:
            continue
    raise EdgeError(
        f"{edge}: reducer {shown(reducer)} takes {signature}; expected (values) or (values, state)."
    )


def _causes(failed: Sequence[ItemError]) -> str:
    first = "; ".join(f"item {error['index']}: {error['type']}: {error['message']}" for error in failed[:3])
    return f"first: {first}"
