"""A graph as a tree: nodes in groups, and arrows at the group that holds both of their ends."""

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["node", "start", "end"]
Path: TypeAlias = tuple[str, ...]
"""From a group down to a node: the keys of the groups between, and that of the node."""

_KINDS: dict[str, Kind] = {"__start__": "start", "__end__": "end"}


@dataclass(frozen=True)
class Leaf:
    """A node.

    Attributes:
        label: Its name.
        kind: Whether it is the start or the end of a graph.
    """

    label: str
    kind: Kind = "node"


@dataclass(frozen=True)
class Arrow:
    """An arrow between two nodes of a group, or of groups inside.

    Attributes:
        source: The path of its source, from the group.
        target: The path of its target.
        label: Its label; "" for none.
        dotted: Whether it stands for any number of items, or for one of several ways.
    """

    source: Path
    target: Path
    label: str = ""
    dotted: bool = False


@dataclass
class Group:
    """A graph, or a graph inside of a node.

    Attributes:
        label: Its name.
        members: Its nodes and groups, by keys.
        arrows: The arrows whose ends have no smaller group in common.
    """

    label: str
    members: "dict[str, Leaf | Group]" = field(default_factory=dict[str, "Leaf | Group"])
    arrows: list[Arrow] = field(default_factory=list[Arrow])


def tree_of(graph: Any, label: str = "") -> Group:
    """Return the tree of a drawing of LangGraph's: `graph.get_graph(xray=True)`.

    Its ids, such as `fan:inside:first`, have the groups that a node is in.
    """
    root = Group(label)
    for key, node in graph.nodes.items():
        path = _path(key)
        kind = _KINDS.get(path[-1], "node")
        label = str(getattr(node, "name", path[-1])) if kind == "node" else kind
        _at(root, path[:-1]).members[path[-1]] = Leaf(label, kind)
    for edge in graph.edges:
        source, target = _path(edge.source), _path(edge.target)
        shared = _shared(source, target)
        arrow = Arrow(source[shared:], target[shared:], str(edge.data or ""), bool(edge.conditional))
        _at(root, source[:shared]).arrows.append(arrow)
    return root


def _path(key: str) -> Path:
    return tuple(key.split(":"))


def _shared(source: Path, target: Path) -> int:
    """Return how many groups two nodes have in common."""
    most = min(len(source), len(target)) - 1
    return next((place for place in range(most) if source[place] != target[place]), most)


def _at(root: Group, path: Path) -> Group:
    """Return the group at a path, made if it is not there yet."""
    group = root
    for key in path:
        inner = group.members.get(key)
        if not isinstance(inner, Group):
            # A level is named by its path, such as fan/inside.
            inner = group.members[key] = Group(key.rpartition("/")[2])
        group = inner
    return group
