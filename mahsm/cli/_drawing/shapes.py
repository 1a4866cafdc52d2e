"""What a picture is made of. All places are columns and rows of cells, from the top left, >= 0."""

from dataclasses import dataclass, field, replace
from typing import Literal

from mahsm.cli._drawing.tree import Kind, Path


@dataclass(frozen=True)
class Box:
    """A node, or the frame of a group.

    Attributes:
        label: Its name.
        kind: What it stands for.
        x: The column of its left side.
        y: The row of its top.
        width: Columns, with its sides.
        height: Rows, with its top and bottom.
    """

    label: str
    kind: Kind | Literal["group"]
    x: int
    y: int
    width: int
    height: int

    @property
    def middle(self) -> int:
        """The column where arrows leave and enter."""
        return self.x + self.width // 2

    @property
    def aside(self) -> int:
        """The column where arrows that lead back leave and enter."""
        return self.x + self.width - 2


@dataclass(frozen=True)
class Line:
    """An arrow: horizontal and vertical parts, with its head at the last point.

    Attributes:
        points: Columns and rows.
        dotted: As of `tree.Arrow`.
    """

    points: tuple[tuple[int, int], ...]
    dotted: bool


@dataclass(frozen=True)
class Label:
    """The label of an arrow.

    Attributes:
        text: What it says.
        x: The column of its first character.
        y: Its row.
    """

    text: str
    x: int
    y: int


@dataclass
class Placed:
    """A node or group, with everything in it at its place.

    Attributes:
        width: Columns that it takes.
        height: Rows that it takes.
        boxes: Frames of groups before what is in them.
        lines: The arrows.
        labels: The labels of arrows.
        leaves: The boxes of nodes, by their paths.
    """

    width: int
    height: int
    boxes: list[Box] = field(default_factory=list[Box])
    lines: list[Line] = field(default_factory=list[Line])
    labels: list[Label] = field(default_factory=list[Label])
    leaves: dict[Path, Box] = field(default_factory=dict[Path, Box])

    def moved(self, x: int, y: int) -> "Placed":
        """Return the same at another place."""
        return Placed(
            self.width,
            self.height,
            [_moved(box, x, y) for box in self.boxes],
            [
                Line(tuple((column + x, row + y) for column, row in line.points), line.dotted)
                for line in self.lines
            ],
            [replace(label, x=label.x + x, y=label.y + y) for label in self.labels],
            {path: _moved(box, x, y) for path, box in self.leaves.items()},
        )


def _moved(box: Box, x: int, y: int) -> Box:
    return replace(box, x=box.x + x, y=box.y + y)
