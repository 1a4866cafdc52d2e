"""What all edges are: a node that LangGraph can look into, and that runs alone too."""

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
"""How a parent's state reduces a key: from its value and an update to the new value."""


class Edge(Node):
    """A special edge: wiring with a policy, compiled into a LangGraph subgraph.

    Made by `vmap`, `parallel` and `reduce_edge`. It goes into `builder.add_node(name, edge)` and into
    `connect`; it runs alone with `edge(state)`, `invoke`, `ainvoke` and `stream`; `compile` makes a graph of
    it. It takes the parent's state and returns only its update. `with_` makes copies in which some arguments
    differ. Like a function, it is its own copy: `copy.deepcopy(edge)` is the edge.

    Attributes:
        name: The node name that `connect` gives it, and its name in traces, errors and progress events.
        graph: The subgraph that it compiles into.
        reads: The state keys that it reads for itself (a target may read more).
        writes: The state keys that it writes.
        origin: The edge that it was made of, to be a node of one graph; itself, if it was not.

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
        """Run it, blocking."""
        if config is None and self.has_several_keys:
            return self._lists.invoke(input, self._called(None))
        return super().invoke(input, self._called(config), **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run it on the running event loop."""
        if config is None and self.has_several_keys:
            return await self._lists.ainvoke(input, self._called(None))
        return await super().ainvoke(input, self._called(config), **kwargs)

    def _called(self, config: RunnableConfig | None) -> RunnableConfig:
        """The config; LangGraph calls a node with one, and a function that has none calls a run with a name
        of its own.
        """
        return {"run_name": self.name} if config is None else config

    @property
    def has_several_keys(self) -> bool:
        """Whether it is a `vmap` whose `out_key` names several keys."""
        return self._items is not None and self._within is not None

    @cached
    def _lists(self) -> "Edge":
        """This edge, giving the list of values of each of its several keys."""
        return self._with_reducers({})

    def within(self, builder: "StateGraph[Any, Any, Any, Any]") -> "Edge":
        """This edge as a node of a graph that is being built, whose state may reduce some keys. `connect`
        does it.
        """
        channels = cast("dict[str, Any]", builder.channels)
        reducers: dict[str, StateReducer] = {
            key: channel.operator
            for key, channel in channels.items()
            if isinstance(channel, BinaryOperatorAggregate)
        }
        if self._within is None:
            return self
        if self._items is not None:  # a vmap asks which keys take several values, and calls no reducer
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
        """Keep the call that has made this edge, for `with_`."""
        self._made_again = make

    def with_(self, **changes: Any) -> "Edge":
        """Make a copy of this edge in which some arguments differ.

        The copy is what the edge's function makes of all the arguments: it is checked in the same way, and
        shares nothing with this edge but the target and the objects that both were given. A node name that
        was not given is made anew. In a graph that has this edge, too, the copy needs a `name` of its own.

        Args:
            **changes: Arguments of the function that made this edge, such as `vmap`.

        Returns:
            An edge of the same kind. That of a graph's node is wired anew: add it by `connect`.

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
            state_schema: Schema of its state. By default the state is a plain dict: whatever keys go in come
                out again, with the edge's update laid over them.
            **options: What `StateGraph.compile` takes: `checkpointer`, `store`, `cache`,
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
        edge = self._lists if self._within else self  # a plain dict reduces nothing

        def sync(state: Any, config: RunnableConfig) -> Any:
            return {**as_dict(state), **edge.invoke(state, config)}

        async def async_(state: Any, config: RunnableConfig) -> Any:
            return {**as_dict(state), **await edge.ainvoke(state, config)}

        return Node(sync, async_, name=self.name, graphs=[self.graph], children=self.children)

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Run alone, and stream as a graph does: `stream_mode="updates"`, `"custom"`, `subgraphs=True`...

        With the config of a node, and none of these, it gives its update: so LangGraph streams a node that is
        an edge.
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
            `"drop"`. Leaving the loop cancels what still runs.

        Raises:
            EdgeError: for an edge that has no items.

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
            raise EdgeError(f"{self.name}: as_completed is of vmap edges, which have items. Use astream.")
        edge = self._lists if config is None and self.has_several_keys else self  # which `ainvoke` runs
        async with aclosing(
            finished_items(edge._items, lambda: edge.ainvoke(state, self._called(config)))
        ) as items:
            async for finished in items:
                yield finished

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """The drawing of the edge: a fan-out, branches or a fan-in.

        Args:
            config: Passed on to the graphs inside.
            xray: Draw what targets hold, too: True, or how many levels.

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
        """What a notebook shows: the drawing, where Mermaid is rendered, and the text elsewhere. No network
        is used.
        """
        shown = {"text/plain": repr(self)}
        try:
            shown["text/vnd.mermaid"] = self.get_graph(xray=True).draw_mermaid()
        except Exception as error:  # noqa: BLE001  a target that cannot be drawn must not break a cell
            shown["text/plain"] += f" (not drawn: {type(error).__name__}: {error})"
        return shown

    def __repr__(self) -> str:
        return f"<Edge {self.name!r}: {', '.join(sorted(self.reads))} -> {', '.join(sorted(self.writes))}>"


def _by_channel(value: Any, _: Any) -> Any:
    """Stands for what a channel does by itself with several values; nobody calls it."""
    return value


def _is_node(config: RunnableConfig | None) -> bool:
    """Whether LangGraph streams a node that is an edge, which it does for `astream_events`; it wants an
    update then.
    """
    return config is not None and TASK in config.get("configurable", {})
