"""`Edge`: a node that LangGraph can look into, and that also runs alone."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Self, TypeAlias, cast

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.graph import Graph
from langgraph.channels import BinaryOperatorAggregate, Topic
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph

from mahsm._common import as_dict, cached
from mahsm.edges._shared.drawing import Compiled, LoneGraph, drawn_as
from mahsm.edges._shared.finished import finished_items
from mahsm.edges._shared.streams import TASK
from mahsm.errors import EdgeError
from mahsm.nodes._internal import Async, Node, Sync

StateReducer: TypeAlias = Callable[[Any, Any], Any]
"""Reducer of a key in a parent's state: returns the new value, given the present one and an update."""


class Edge(Node):
    """A special edge: wiring with a policy, compiled into a LangGraph subgraph.

    Made by `vmap`, `parallel` and `reduce_edge`. Add it to a graph with `builder.add_node(name, edge)` or
    `connect`; run it alone with `edge(state)`, `invoke`, `ainvoke` or `stream`; make a graph of it with
    `compile`. It takes the parent's state and returns only its update. `with_` makes copies with some
    arguments changed. Like a function, it is its own copy: `copy.deepcopy(edge)` is the edge.

    Attributes:
        name: The node name that `connect` gives it, and its name in traces, errors and progress events.
        graph: The subgraph that it compiles into.
        reads: The state keys that it reads itself (its targets may read more).
        writes: The state keys that it writes.
        origin: The edge that it was derived from for use as a node of one graph; otherwise itself.

    Example:
        >>> from mahsm import vmap
        >>> edge = vmap(lambda state: state["item"] * 2, batch_key="xs", out_key="doubled")
        >>> edge.invoke({"xs": [1, 2, 3]})
        {'doubled': [2, 4, 6]}
    """

    name: str

    def __init__(
        self,
        sync: Sync,
        async_: Async,
        *,
        name: str,
        graph: Compiled,
        reads: Sequence[str],
        writes: Sequence[str],
        children: Mapping[str, object],
        within: "Callable[[Mapping[str, StateReducer]], Edge] | None" = None,
        items: object = None,
    ) -> None:
        super().__init__(sync, async_, name=name, graphs=[graph], children=children)
        self.graph = graph
        self.origin: Edge = self
        self._within = within
        self._made_again: Callable[..., Edge] | None = None
        self._items = items
        self.reads: frozenset[str] = frozenset(reads)
        self.writes: frozenset[str] = frozenset(writes)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the edge, blocking."""
        if config is None and self.has_several_keys:
            return self._lists.invoke(input, self._called(None))
        return super().invoke(input, self._called(config), **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the edge on the running event loop."""
        if config is None and self.has_several_keys:
            return await self._lists.ainvoke(input, self._called(None))
        return await super().ainvoke(input, self._called(config), **kwargs)

    def _called(self, config: RunnableConfig | None) -> RunnableConfig:
        """Return the config; without one, a new one with the edge's name.

        LangGraph calls a node with a config; a call without one comes from a function, and is its own run.
        """
        return {"run_name": self.name} if config is None else config

    @property
    def has_several_keys(self) -> bool:
        """True for a `vmap` whose `out_key` names several keys."""
        return self._items is not None and self._within is not None

    @cached
    def _lists(self) -> "Edge":
        """This edge as one that returns a list for each of its several keys."""
        return self._with_reducers({})

    def within(self, builder: "StateGraph[Any, Any, Any, Any]") -> "Edge":
        """Return this edge as a node of a graph whose state may reduce some keys. `connect` calls it."""
        channels = cast("dict[str, Any]", builder.channels)
        reducers: dict[str, StateReducer] = {
            key: channel.operator
            for key, channel in channels.items()
            if isinstance(channel, BinaryOperatorAggregate)
        }
        if self._within is None:
            return self
        # A `vmap` only asks which keys take several values, and does not call their reducers.
        if self._items is not None:
            reducers |= {
                key: _by_channel
                for key, channel in channels.items()
                if isinstance(channel, Topic | DeltaChannel)
            }
        return self._with_reducers(reducers)

    def _with_reducers(self, reducers: Mapping[str, StateReducer]) -> "Edge":
        assert self._within is not None
        edge = self._within(reducers)
        edge.origin = self.origin
        return edge

    def made_again_by(self, make: "Callable[..., Edge]") -> None:
        """Keep the function that makes this edge again, for `with_`."""
        self._made_again = make

    def with_(self, **changes: Any) -> "Edge":
        """Make a copy of this edge with some arguments changed.

        The function that made this edge is called with all the arguments, so the copy goes through the same
        checks. The two edges share only the target and the objects that both were given. A default node name
        is made anew. In a graph that also has this edge, the copy needs a `name` of its own.

        Args:
            **changes: Arguments of the function that made this edge, such as `vmap`.

        Returns:
            An edge of the same kind. It is not wired to a graph yet: add it by `connect`.

        Raises:
            TypeError: for an argument that the function does not have.
            MahsmError: whatever the function raises for these arguments.

        Example:
            >>> from mahsm import vmap
            >>> edge = vmap(lambda state: state["item"] * 2, batch_key="xs", out_key="doubled")
            >>> careful = edge.with_(max_concurrency=1, out_key="ys", name="careful")
            >>> careful.invoke({"xs": [1, 2, 3]})
            {'ys': [2, 4, 6]}
        """
        make = self.origin._made_again
        assert make is not None
        return make(**changes)

    def compile(self, state_schema: type[Any] | None = None, **options: Any) -> Compiled:
        """Make a graph that has this edge as its only node.

        Args:
            state_schema: Schema of its state. By default the state is a plain dict: all keys of the input
                come out again, with the edge's update laid over them.
            **options: Arguments of `StateGraph.compile`: `checkpointer`, `store`, `cache`,
                `interrupt_before`...

        Example:
            >>> from langgraph.checkpoint.memory import InMemorySaver
            >>> from mahsm import vmap
            >>> edge = vmap(lambda state: state["item"] * 2, batch_key="xs", out_key="doubled")
            >>> graph = edge.compile(checkpointer=InMemorySaver())
            >>> graph.invoke({"xs": [1, 2]}, {"configurable": {"thread_id": "1"}})
            {'xs': [1, 2], 'doubled': [2, 4]}
        """
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(state_schema or dict)
        builder.add_node(self.name, self.within(builder) if state_schema else self._over_dict())
        builder.add_edge(START, self.name)
        builder.add_edge(self.name, END)
        options.setdefault("name", self.name)
        return drawn_as(LoneGraph, builder.compile(**options))

    def _over_dict(self) -> Node:
        # A plain dict reduces nothing.
        edge = self._lists if self._within else self

        def sync(state: Any, config: RunnableConfig) -> Any:
            return {**as_dict(state), **edge.invoke(state, config)}

        async def async_(state: Any, config: RunnableConfig) -> Any:
            return {**as_dict(state), **await edge.ainvoke(state, config)}

        return Node(sync, async_, name=self.name, graphs=[self.graph], children=self.children)

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Run alone, and stream as a graph does: `stream_mode="updates"`, `"custom"`, `subgraphs=True`...

        With the config of a node, and without such arguments, it yields its update, since that is how
        LangGraph streams a node that is a Runnable.
        """
        if not kwargs and _is_node(config):
            yield self.invoke(input, config)
        else:
            yield from self.compile().stream(input, config, **kwargs)

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Async version of `stream`."""
        if not kwargs and _is_node(config):
            yield await self.ainvoke(input, config)
            return
        async for chunk in self.compile().astream(input, config, **kwargs):
            yield chunk

    async def as_completed(
        self, state: Any, config: RunnableConfig | None = None
    ) -> AsyncIterator[tuple[int, Any]]:
        """Run a `vmap` alone, and iterate over its items as they finish.

        Args:
            state: The state.
            config: The config of the run.

        Yields:
            The index of an item, from 0, and its entry; or its `ItemError`, with `on_error="collect"` or
            `"drop"`. Leaving the loop cancels the items that still run.

        Raises:
            EdgeError: for an edge without items.

        Example:
            >>> import asyncio
            >>> from mahsm import vmap
            >>> double = lambda state: state["item"] * 2
            >>> edge = vmap(double, batch_key="xs", out_key="doubled", max_concurrency=1)
            >>> async def main():
            ...     return [(index, value) async for index, value in edge.as_completed({"xs": [1, 2, 3]})]
            >>> asyncio.run(main())
            [(0, 2), (1, 4), (2, 6)]
        """
        if self._items is None:
            raise EdgeError(f"{self.name}: as_completed needs a vmap, which has items. Use astream.")
        # The edge that `ainvoke` runs.
        edge = self._lists if config is None and self.has_several_keys else self
        async with aclosing(
            finished_items(edge._items, lambda: edge.ainvoke(state, self._called(config)))
        ) as items:
            async for finished in items:
                yield finished

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """Return the drawing of the edge: a fan-out, branches or a fan-in.

        Args:
            config: Passed on to the graphs inside.
            xray: Also draw the graphs in its targets: True, or how many levels.

        Example:
            >>> from mahsm import vmap
            >>> edge = vmap(lambda state: state["item"] * 2, batch_key="xs", out_key="doubled")
            >>> [(arrow.source, arrow.data, arrow.target) for arrow in edge.get_graph().edges]
            [('__start__', 'each of xs', 'lambda'), ('lambda', 'doubled', '__end__')]
        """
        return self.graph.get_graph(config, xray=xray)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    async def aget_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """Async version of `get_graph`."""
        return await self.graph.aget_graph(config, xray=xray)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, str]:
        """Return what a notebook shows: the drawing as Mermaid, or its `repr`. No network is used."""
        shown = {"text/plain": repr(self)}
        try:
            shown["text/vnd.mermaid"] = self.get_graph(xray=True).draw_mermaid()
        except Exception as error:  # noqa: BLE001  a target that cannot be drawn must not break a cell
            shown["text/plain"] += f" (not drawn: {type(error).__name__}: {error})"
        return shown

    def __repr__(self) -> str:
        return f"<Edge {self.name!r}: {', '.join(sorted(self.reads))} -> {', '.join(sorted(self.writes))}>"


def _by_channel(value: Any, _: Any) -> Any:
    """Mark a key whose channel takes several values by itself; never called."""
    return value


def _is_node(config: RunnableConfig | None) -> bool:
    """Return whether LangGraph streams the edge as a node, as it does for `astream_events`."""
    return config is not None and TASK in config.get("configurable", {})
