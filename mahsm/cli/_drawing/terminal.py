"""A picture as text, with box-drawing characters."""

from itertools import pairwise

from rich.cells import cell_len

from mahsm.cli._drawing.picture import Picture
from mahsm.cli._drawing.shapes import Box, Line

UP, DOWN, LEFT, RIGHT = 1, 2, 4, 8
_STROKES = dict(
    zip(
        (UP | DOWN, LEFT | RIGHT, DOWN | RIGHT, DOWN | LEFT, UP | RIGHT, UP | LEFT),
        "│─┌┐└┘",
        strict=True,
    )
) | {
    UP | DOWN | RIGHT: "├",
    UP | DOWN | LEFT: "┤",
    DOWN | LEFT | RIGHT: "┬",
    UP | LEFT | RIGHT: "┴",
    UP | DOWN | LEFT | RIGHT: "┼",
    UP: "│",
    DOWN: "│",
    LEFT: "─",
    RIGHT: "─",
}
_DOTTED = {"│": "┆", "─": "┄"}
_HEADS = {UP: "▲", DOWN: "▼", LEFT: "◀", RIGHT: "▶"}
_CORNERS = {"node": "┌┐└┘", "start": "╭╮╰╯", "end": "╭╮╰╯"}


def text(picture: Picture) -> str:
    """Return a picture as lines of text, without spaces at their ends."""
    canvas = _Canvas(picture.width, picture.height)
    for box in picture.boxes:
        if box.kind == "group":
            canvas.frame(box)
    for line in picture.lines:
        canvas.line(line)
    cells = canvas.cells()
    for box in picture.boxes:
        _draw(cells, box)
    for label in picture.labels:
        _write(cells, label.x, label.y, label.text)
    for line in picture.lines:
        (column, row), way = line.points[-1], _way(*line.points[-2:])
        cells[row][column] = _HEADS[way]
    return "\n".join("".join(row).rstrip() for row in cells)


class _Canvas:
    """Strokes in cells: those that meet become one character."""

    def __init__(self, width: int, height: int) -> None:
        self._strokes = [[0] * width for _ in range(height)]
        self._dotted = [[True] * width for _ in range(height)]

    def frame(self, box: Box) -> None:
        right, bottom = box.x + box.width - 1, box.y + box.height - 1
        corners = ((box.x, box.y), (right, box.y), (right, bottom), (box.x, bottom), (box.x, box.y))
        self.line(Line(corners, dotted=False))

    def line(self, line: Line) -> None:
        for one, other in pairwise(line.points):
            self._stroke(one, other, dotted=line.dotted)

    def _stroke(self, one: tuple[int, int], other: tuple[int, int], *, dotted: bool) -> None:
        way = _way(one, other)
        step = {UP: (0, -1), DOWN: (0, 1), LEFT: (-1, 0), RIGHT: (1, 0)}[way]
        behind = {UP: DOWN, DOWN: UP, LEFT: RIGHT, RIGHT: LEFT}[way]
        column, row = one
        while (column, row) != other:
            self._mark(column, row, way, dotted=dotted)
            column, row = column + step[0], row + step[1]
            self._mark(column, row, behind, dotted=dotted)

    def _mark(self, column: int, row: int, stroke: int, *, dotted: bool) -> None:
        self._strokes[row][column] |= stroke
        self._dotted[row][column] &= dotted

    def cells(self) -> list[list[str]]:
        """Return the character of each cell."""
        return [
            [self._character(column, row) for column in range(len(strokes))]
            for row, strokes in enumerate(self._strokes)
        ]

    def _character(self, column: int, row: int) -> str:
        stroke = _STROKES.get(self._strokes[row][column], " ")
        return _DOTTED.get(stroke, stroke) if self._dotted[row][column] else stroke


def _way(one: tuple[int, int], other: tuple[int, int]) -> int:
    if one[0] == other[0]:
        return DOWN if other[1] >= one[1] else UP
    return RIGHT if other[0] > one[0] else LEFT


def _draw(cells: list[list[str]], box: Box) -> None:
    """Draw a node over what is there, or the label of a group into its frame."""
    if box.kind == "group":
        _write(cells, box.x + 1, box.y, f" {box.label} ")
        return
    corners, side = _CORNERS[box.kind], "─" * (box.width - 2)
    _write(cells, box.x, box.y, f"{corners[0]}{side}{corners[1]}")
    space = box.width - 2 - cell_len(box.label)
    left = " " * (space // 2)
    _write(cells, box.x, box.y + 1, f"│{left}{box.label}{' ' * (space - len(left))}│")
    _write(cells, box.x, box.y + 2, f"{corners[2]}{side}{corners[3]}")


def _write(cells: list[list[str]], column: int, row: int, text: str) -> None:
    for character in text:
        wide = cell_len(character)
        if wide == 0:
            # It belongs to the character before it.
            cells[row][column - 1] += character
            continue
        cells[row][column] = character
        for more in range(column + 1, column + wide):
            cells[row][more] = ""
        column += wide
