"""A picture as SVG."""

from xml.sax.saxutils import escape

from mahsm.cli._drawing.picture import Picture
from mahsm.cli._drawing.shapes import Box, Label, Line

COLUMN = 9
"""Pixels of a column, and `ROW` of a row."""
ROW = 16
MARGIN = 16
FONT = 14

_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" \
viewBox="0 0 {width} {height}" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="{font}">
<title>{title}</title>
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" \
orient="auto"><path d="M0 0L10 5L0 10z" fill="#555"/></marker></defs>
<rect width="{width}" height="{height}" fill="#fff"/>
"""
COLOURS = {
    "node": ("#f2f0ff", "#7c6fd0"),
    "start": ("#fff", "#7c6fd0"),
    "end": ("#bfb6fc", "#7c6fd0"),
    "group": ("#fafafa", "#bbb"),
}
"""Of each kind of box, the colours inside and at its sides."""


def svg(picture: Picture, title: str = "graph") -> str:
    """Return a picture as SVG, with a white background.

    Args:
        picture: The picture.
        title: What screen readers say.
    """
    width, height = picture.width * COLUMN + 2 * MARGIN, picture.height * ROW + 2 * MARGIN
    head = _HEAD.format(width=width, height=height, font=FONT, title=escape(title))
    groups = [_box(box) for box in picture.boxes if box.kind == "group"]
    nodes = [_box(box) for box in picture.boxes if box.kind != "group"]
    lines = [_line(line) for line in picture.lines]
    labels = [_label(label) for label in picture.labels]
    return "\n".join([head.rstrip("\n"), *groups, *lines, *nodes, *labels, "</svg>", ""])


def middle(column: int, row: int) -> tuple[float, float]:
    """Return the middle of a cell, in pixels."""
    return MARGIN + (column + 0.5) * COLUMN, MARGIN + (row + 0.5) * ROW


def frame(box: Box) -> tuple[float, float, float, float]:
    """Return the left, top, width and height of a box, in pixels: from the middle of its cells."""
    left, top = middle(box.x, box.y)
    return left, top, (box.width - 1) * COLUMN, (box.height - 1) * ROW


def points(line: Line) -> list[tuple[float, float]]:
    """Return the points of an arrow in pixels; its head is at the side of its target."""
    found = [middle(*point) for point in line.points]
    (x, y), (before_x, before_y) = found[-1], found[-2]
    if x == before_x:
        down = line.points[-1][1] >= line.points[-2][1]
        found[-1] = (x, y + ROW if down else y - ROW)
    else:
        found[-1] = (x - COLUMN if x < before_x else x + COLUMN, before_y)
    return found


def _box(box: Box) -> str:
    left, top, width, height = frame(box)
    inside, side = COLOURS[box.kind]
    round_ = height / 2 if box.kind in ("start", "end") else 6
    drawn = (
        f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="{round_:g}" '
        f'fill="{inside}" stroke="{side}"/>'
    )
    if box.kind == "group":
        return (
            f'{drawn}\n<text x="{left + 8:g}" y="{top + FONT + 2:g}" fill="#555">{escape(box.label)}</text>'
        )
    x, y = left + width / 2, top + height / 2
    return (
        f'{drawn}\n<text x="{x:g}" y="{y:g}" text-anchor="middle" dominant-baseline="central">'
        f"{escape(box.label)}</text>"
    )


def _line(line: Line) -> str:
    path = "L".join(f"{x:g} {y:g}" for x, y in points(line))
    dots = ' stroke-dasharray="4 3"' if line.dotted else ""
    return (
        f'<path d="M{path}" fill="none" stroke="#555" stroke-linejoin="round"{dots} marker-end="url(#head)"/>'
    )


def _label(label: Label) -> str:
    x, y = middle(label.x, label.y)
    return (
        f'<text x="{x:g}" y="{y:g}" dominant-baseline="central" fill="#555" font-size="{FONT - 2}">'
        f"{escape(label.text)}</text>"
    )
