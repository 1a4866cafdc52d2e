"""The whole graph in cells of a terminal, which all formats draw."""

from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len

from mahsm.cli._drawing.level import level
from mahsm.cli._drawing.shapes import Box, Label, Line, Placed
from mahsm.cli._drawing.tree import Group, Leaf, tree_of


@dataclass(frozen=True)
class Picture:
    """A drawing, in cells of a terminal.

    Attributes:
        width: Columns.
        height: Rows.
        boxes: Nodes, and frames of groups before what is in them.
        lines: Arrows.
        labels: Labels of arrows.
    """

    width: int
    height: int
    boxes: list[Box]
    lines: list[Line]
    labels: list[Label]


def picture_of(graph: Any) -> Picture:
    """Return the picture of a drawing of LangGraph's: `graph.get_graph(xray=True)`."""
    placed = _content(tree_of(graph))
    return Picture(placed.width, placed.height, placed.boxes, placed.lines, placed.labels)


def _content(group: Group) -> Placed:
    members = {key: _placed(member) for key, member in group.members.items()}
    return level(members, group.arrows)


def _placed(member: Leaf | Group) -> Placed:
    if isinstance(member, Leaf):
        # An odd width has a column in its middle.
        width = (cell_len(member.label) + 4) | 1
        box = Box(member.label, member.kind, 0, 0, width, 3)
        return Placed(width, 3, [box], leaves={(): box})
    content = _content(member)
    # A row below the top has the heads of arrows, which enter at the right of the label.
    entering = min((box.middle for box in content.leaves.values() if box.y == 0), default=0)
    left = max(2, cell_len(member.label) + 5 - entering)
    width = (left + content.width + 2) | 1
    inside = content.moved(left, 2)
    frame = Box(member.label, "group", 0, 0, width, content.height + 3)
    return Placed(width, frame.height, [frame, *inside.boxes], inside.lines, inside.labels, inside.leaves)
