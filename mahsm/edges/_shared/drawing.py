"""The drawing of an edge: what `get_graph` shows of its subgraph, alone and inside another graph.

LangGraph draws a graph level by level. It asks each subgraph for its drawing, removes the first and the last
node where it can, and puts the rest in the place of the node that holds it, under ids such as
`fan:inside:first`. langchain-core renders that as Mermaid, with a box for each level. It leaves out a level
that has no arrow of its own, with all levels below, and refuses two levels of the same name. So an edge's
drawing keeps its start and end, which gives every level below an arrow, and a level is named by its path, as
in `usage().by_node`.

Only the drawing is changed and never the subgraph that runs: a node that is there only to be drawn would cost
a step, and change what is saved and streamed.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.graph import Edge as Arrow
from langchain_core.runnables.graph import Graph, Node
from langgraph.constants import END, START
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel

Compiled: TypeAlias = CompiledStateGraph[Any, Any, Any, Any]
DrawnT = TypeVar("DrawnT", bound=Compiled)

_PLAIN = re.compile(r"[\w ,]+")
"""Labels that every renderer can show; Mermaid's grammar fails on brackets, quotes and dots."""


class Drawing(Graph):
    """A drawing that keeps its start and end when LangGraph puts it into another one."""

    def first_node(self) -> Node | None:
        return self.nodes.get(START)

    def last_node(self) -> Node | None:
        return self.nodes.get(END)

    def trim_first_node(self) -> None:
        """Keep the start, at which an arrow of this level begins."""

    def trim_last_node(self) -> None:
        """Keep the end, at which an arrow of this level ends."""


class DrawnGraph(Compiled):
    """A graph that is drawn with the given arrows between its nodes.

    Args:
        arrows: The arrows, including those from the start and to the end.
        **options: The attributes of a compiled graph.
    """

    def __init__(self, *, arrows: Sequence[Arrow], **options: Any) -> None:
        super().__init__(**options)
        self.arrows = arrows

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """Return the drawing, including the graphs inside nodes down to `xray` levels."""
        if xray:
            return _with_insides(self, config, xray, self.name)
        drawing = Drawing()
        for name in (START, *(name for name in self.nodes if name != START), END):
            drawing.add_node(self.nodes[name].bound if name in self.builder.nodes else None, name)
        drawing.edges.extend(self.arrows)
        return drawing

    async def aget_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """Async version of `get_graph`, in a thread."""
        return await asyncio.to_thread(self.get_graph, config, xray=xray)


class Deferred(DrawnGraph):
    """A drawn graph that is compiled when it is first used; then it is a `DrawnGraph`.

    Compiling takes most of the time of making an edge, which may never be drawn, nor run as tasks.

    Args:
        make: Compiles the graph, without a checkpointer.
    """

    def __init__(self, make: Callable[[], DrawnGraph]) -> None:
        object.__getattribute__(self, "__dict__")["_make"] = make

    def __getattribute__(self, name: str) -> Any:
        # LangGraph asks each graph inside a node for its checkpointer when it compiles the graph around.
        if name in ("checkpointer", "__class__"):
            return object.__getattribute__(self, name)
        own: dict[str, Any] = object.__getattribute__(self, "__dict__")
        make: Callable[[], DrawnGraph] | None = own.get("_make")
        if make is not None:
            # If two threads compile it, both see the attributes of the first.
            for attribute, value in vars(make()).items():
                own.setdefault(attribute, value)
            object.__setattr__(self, "__class__", DrawnGraph)
            own.pop("_make", None)
        return getattr(self, name)


class LoneGraph(Compiled):
    """A graph whose only node holds a graph; with `xray` it is drawn as that graph."""

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """Return the drawing of the graph inside with `xray`, otherwise of the one node."""
        if not xray:
            return super().get_graph(config)
        return next(inside for _, inside in _local_graphs(self)).get_graph(config, xray=_deeper(xray))

    async def aget_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """Async version of `get_graph`, in a thread."""
        return await asyncio.to_thread(self.get_graph, config, xray=xray)


def drawn_as(kind: type[DrawnT], graph: Compiled, **more: Any) -> DrawnT:
    """Return a compiled graph as an instance of a class that differs only in how it is drawn."""
    return kind(**{name: value for name, value in vars(graph).items() if name != "__orig_class__"}, **more)


def arrow(source: str, target: str, label: str = "", *, many: bool = False) -> Arrow:
    """Return an arrow between two nodes; with `many`, a dotted one, which stands for any number of items."""
    return Arrow(source, target, label if _PLAIN.fullmatch(label) else None, many)


def _with_insides(graph: Any, config: RunnableConfig | None, xray: int | bool, path: str) -> Graph:
    """Return the drawing of a graph and of the graphs in its nodes; a remote graph stays a node."""
    drawn: Graph = graph.get_graph(config)
    if not xray:
        return drawn
    held = {name: inside for name, inside in _local_graphs(graph) if name in drawn.nodes}
    neighbours = {
        name for edge in drawn.edges if {edge.source, edge.target} <= held.keys() for name in edge[:2]
    }
    for name, inside in held.items():
        level = f"{path}/{name}"
        inner = _with_insides(inside, config, _deeper(xray), level)
        _put(drawn, name, inner, level, trim=name not in neighbours)
    return drawn


def _local_graphs(graph: Any) -> list[tuple[str, Any]]:
    """Return the graphs that the nodes of a graph hold, except remote ones."""
    return [(name, inside) for name, inside in graph.get_subgraphs() if isinstance(inside, Pregel)]


def _deeper(xray: int | bool) -> int | bool:
    """Return `xray` for the level below, counted as LangGraph does."""
    return xray if isinstance(xray, bool) or xray <= 0 else xray - 1


def _put(drawn: Graph, name: str, inner: Graph, level: str, *, trim: bool) -> None:
    """Replace a node by the drawing of the graph that it holds."""
    first, last = _trimmed(inner) if trim and not isinstance(inner, Drawing) else (START, _ends(inner))
    del drawn.nodes[name]
    outside = [(edge, edge.source == name, edge.target == name) for edge in drawn.edges]
    drawn.edges = [
        edge.copy(source=source, target=f"{level}:{first}" if enters else edge.target)
        for edge, leaves, enters in outside
        for source in ([f"{level}:{end}" for end in last] if leaves else [edge.source])
    ]
    drawn.extend(inner, prefix=level)


def _trimmed(inner: Graph) -> tuple[str, list[str]]:
    """Remove a start and an end that have one arrow each, if the level keeps another arrow.

    Returns:
        The nodes at which the drawing begins and ends.
    """
    first, last = START, _ends(inner)
    begins = [edge for edge in inner.edges if edge.source == START]
    finishes = [edge for edge in inner.edges if edge.target == END]
    rest = [edge for edge in inner.edges if edge not in begins and edge not in finishes]
    if not any(_level(edge.source) != _level(edge.target) for edge in rest):
        return first, last
    if len(begins) == 1:
        first = begins[0].target
        inner.remove_node(inner.nodes[START])
    if len(finishes) == 1:
        last = [finishes[0].source]
        inner.remove_node(inner.nodes[END])
    return first, last


def _ends(drawn: Graph) -> list[str]:
    """Return the nodes at which a drawing ends.

    A graph whose nodes return `Command`s may have no end; then these are the nodes from which no arrow leads.
    """
    if END in drawn.nodes:
        return [END]
    sources = {edge.source for edge in drawn.edges}
    return [name for name in drawn.nodes if name not in sources] or list(drawn.nodes)[-1:]


def _level(name: str) -> str:
    return name.partition(":")[0]
