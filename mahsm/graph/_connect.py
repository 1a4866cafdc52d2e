"""`connect`: edges in a LangGraph state machine."""

from itertools import pairwise
from typing import Any, TypeVar

from langgraph.graph import StateGraph

from mahsm._state import shown
from mahsm.edges import Edge
from mahsm.errors import EdgeError

BuilderT = TypeVar("BuilderT", bound="StateGraph[Any, Any, Any, Any]")


def connect(builder: BuilderT, *steps: str | Edge) -> BuilderT:
    """Wire steps one after the other: add each edge as a node, and a plain LangGraph edge between neighbours.

    Args:
        builder: The graph that is being built.
        *steps: Names of nodes (`START` and `END` too), and edges. An edge becomes a node of its own name; a node named here
            may be added before or after.

    Returns:
        The builder.

    Raises:
        EdgeError: for fewer than two steps, a step that is neither, a name that is taken, or an edge that reads or writes a
            key which the state schema lacks (LangGraph would drop what it writes without a word).

    Example:
        >>> from operator import itemgetter
        >>> from typing import TypedDict
        >>> from langgraph.graph import END, START, StateGraph
        >>> from mahsm import connect, reduce_edge, vmap
        >>> class State(TypedDict):
        ...     xs: list[int]
        ...     squares: list[int]
        ...     total: int
        >>> squares = vmap(lambda state: state["item"] ** 2, batch_key="xs", out_key="squares")
        >>> total = reduce_edge(input_key="squares", output_key="total", reducer=sum)
        >>> graph = connect(StateGraph(State), START, squares, total, END).compile()
        >>> graph.invoke({"xs": [1, 2, 3]})["total"]
        14
    """
    if len(steps) < 2:
        raise EdgeError(f"connect: got {len(steps)} steps; expected at least two, as connect(builder, START, edge, END).")
    names: list[str] = []
    for place, step in enumerate(steps):
        if isinstance(step, str):
            names.append(step)
            continue
        if not isinstance(step, Edge):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EdgeError(
                f"connect: step {place} is {shown(step)}; expected a node name or an edge. Add other nodes with "
                "builder.add_node(name, node) and give their name."
            )
        if any(step is other for other in steps[:place]):
            raise EdgeError(
                f"connect: {step!r} stands twice, which would make a loop. Add it under two names with "
                "builder.add_node(name, edge), and connect the names."
            )
        _add(builder, step)
        names.append(step.name)
    for start, end in pairwise(names):
        builder.add_edge(start, end)
    return builder


def _add(builder: StateGraph[Any, Any, Any, Any], edge: Edge) -> None:
    present = builder.nodes.get(edge.name)
    if present is not None and isinstance(present.runnable, Edge) and present.runnable.origin is edge:
        return
    if present is not None:
        raise EdgeError(f"connect: the graph has a node {edge.name!r} already; expected another. Give {edge!r} a name=.")
    keys: set[str] = {*builder.channels, *builder.managed}
    lacking = sorted((edge.reads | edge.writes) - keys)
    if lacking and "__root__" not in keys:  # a state without a schema takes any key
        raise EdgeError(
            f"connect: {edge!r} uses {', '.join(map(repr, lacking))}, but the state schema {builder.state_schema.__name__} has "
            f"only {', '.join(map(repr, sorted(keys)))}. Add the key to the schema, or change the edge's."
        )
    builder.add_node(edge.name, edge.within(builder))
