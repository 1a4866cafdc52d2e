"""`connect`: adds edges to a LangGraph state machine."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import field, is_dataclass, make_dataclass
from itertools import pairwise
from typing import Any, TypeVar, cast, get_type_hints

from langchain_core.runnables import Runnable
from langgraph.graph import StateGraph
from pydantic import BaseModel, create_model
from typing_extensions import TypedDict

from mahsm._common import shown
from mahsm.edges import Edge
from mahsm.errors import EdgeError
from mahsm.nodes._internal import annotations_of, keys_of, node_name

BuilderT = TypeVar("BuilderT", bound="StateGraph[Any, Any, Any, Any]")


def connect(builder: BuilderT, *steps: str | Edge | Callable[..., Any] | Runnable[Any, Any]) -> BuilderT:
    """Connect steps in order: add each edge as a node, and a plain LangGraph edge between neighbours.

    Args:
        builder: The graph that is being built.
        *steps: Names of nodes, including `START` and `END`, or edges, functions, Runnables and graphs. A step
            that is not a name is added as a node with its own name. A node that is named may be added before
            or after.

    Returns:
        The builder.

    Raises:
        EdgeError: if there are fewer than two steps, a step has another type, a name is taken, or an edge
            reads or writes a key that no schema of the graph has (LangGraph would silently drop such
            writes). Keys of nodes' own schemas, LangGraph's private state, are known once these nodes are
            added.

    Example:
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
        raise EdgeError(
            f"connect: got {len(steps)} steps; expected at least two, such as connect(builder, START, edge, "
            "END)."
        )
    names: list[str] = []
    for place, step in enumerate(steps):
        if isinstance(step, str):
            names.append(step)
            continue
        if not callable(step) and not isinstance(step, Runnable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EdgeError(
                f"connect: step {place} is {shown(step)}; expected a node name, an edge, a function or a "
                "Runnable. Add other nodes with builder.add_node(name, node) and pass their name."
            )
        if any(step is other for other in steps[:place]):
            raise EdgeError(
                f"connect: {step!r} is given twice, which would make a loop. Add it under two names with "
                "builder.add_node(name, edge), and connect the names."
            )
        names.append(_add_edge(builder, step) if isinstance(step, Edge) else _add_node(builder, step))
    for start, end in pairwise(names):
        builder.add_edge(start, end)
    return builder


def _add_node(builder: StateGraph[Any, Any, Any, Any], step: Any) -> str:
    name: str = (
        step.get_name() if hasattr(step, "get_name") else getattr(step, "__name__", type(step).__name__)
    )
    present: Any = builder.nodes.get(name)
    if present is not None and step in (present.runnable, getattr(present.runnable, "func", None)):
        return name
    if present is not None or node_name(name) != name:
        wrong = "is taken in the graph" if present is not None else "LangGraph does not allow"
        raise EdgeError(
            f"connect: {shown(step)} would be a node {name!r}, a name that {wrong}. Add it with "
            "builder.add_node(name, node), and pass the name."
        )
    builder.add_node(name, step)
    return name


def _add_edge(builder: StateGraph[Any, Any, Any, Any], edge: Edge) -> str:
    present = builder.nodes.get(edge.name)
    if present is not None and isinstance(present.runnable, Edge) and present.runnable.origin is edge:
        return edge.name
    if present is not None:
        raise EdgeError(f"connect: the graph already has another node {edge.name!r}. Give {edge!r} a name=.")
    uses, keys = edge.reads | edge.writes, {*builder.channels, *builder.managed}
    # A state without a schema takes any key.
    private = {} if "__root__" in keys else _private(builder, uses)
    lacking = sorted(uses - keys - private.keys())
    if lacking and "__root__" not in keys:
        raise EdgeError(
            f"connect: {edge!r} uses {', '.join(map(repr, lacking))}, but the state schema "
            f"{builder.state_schema.__name__} has only {', '.join(map(repr, sorted(keys)))}. Add the key to "
            "the schema, or change the edge's."
        )
    schema = _with_keys(builder.state_schema, private) if private else None
    builder.add_node(edge.name, edge.within(builder), input_schema=schema)
    return edge.name


def _private(builder: StateGraph[Any, Any, Any, Any], keys: frozenset[str]) -> dict[str, Any]:
    """Return the keys, with their types, that only the schemas of some nodes have."""
    keys -= cast("dict[str, Any]", builder.schemas[builder.state_schema]).keys()
    if not keys:
        return {}
    functions: list[Any] = [
        getattr(node.runnable, "func", None) or getattr(node.runnable, "afunc", None)
        for node in builder.nodes.values()
    ]
    given = [annotations_of(function, function)[1] for function in functions if function is not None]
    found: dict[str, Any] = {}
    for schema in [*builder.schemas, *(schema for schema in given if keys_of(schema))]:
        hints: dict[str, Any] = {}
        # Names that are imported under TYPE_CHECKING cannot be resolved.
        with suppress(NameError):
            hints = get_type_hints(schema, include_extras=True)
        found = {key: hints[key] for key in keys & hints.keys()} | found
    return found


def _with_keys(schema: Any, more: dict[str, Any]) -> Any:
    """Return a schema with additional keys."""
    name = f"{schema.__name__}AndPrivate"
    if is_dataclass(schema):
        return make_dataclass(
            name,
            [(key, kind, field(default=None)) for key, kind in more.items()],
            bases=(cast("type", schema),),
            kw_only=True,
        )
    if isinstance(schema, type) and issubclass(schema, BaseModel):
        return create_model(name, __base__=schema, **{key: (kind | None, None) for key, kind in more.items()})  # pyright: ignore
    return TypedDict(name, get_type_hints(schema, include_extras=True) | more)  # pyright: ignore
