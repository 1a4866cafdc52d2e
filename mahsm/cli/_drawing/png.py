"""A picture as PNG, drawn by matplotlib."""

from io import BytesIO
from typing import Any

from mahsm.cli._drawing.picture import Picture
from mahsm.cli._drawing.shapes import Box, Label, Line
from mahsm.cli._drawing.svg import COLOURS, COLUMN, FONT, MARGIN, ROW, frame, middle, points

DOTS = 192
"""Dots per inch: two for each pixel of the SVG."""
_PIXELS = 96
_POINTS = 72 / _PIXELS


def png(picture: Picture) -> bytes:
    """Return a picture as PNG.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("PNG needs matplotlib: pip install 'mahsm[draw]'; SVG needs nothing.") from error
    width, height = picture.width * COLUMN + 2 * MARGIN, picture.height * ROW + 2 * MARGIN
    figure: Any = Figure(figsize=(width / _PIXELS, height / _PIXELS), dpi=DOTS)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for box in sorted(picture.boxes, key=lambda box: box.kind != "group"):
        _draw_box(axes, box)
    for line in picture.lines:
        _draw_line(axes, line)
    for label in picture.labels:
        _draw_label(axes, label)
    written = BytesIO()
    figure.savefig(written, format="png", dpi=DOTS)
    return written.getvalue()


def _draw_box(axes: Any, box: Box) -> None:
    from matplotlib.patches import FancyBboxPatch

    left, top, width, height = frame(box)
    inside, side = COLOURS[box.kind]
    corner = height / 2 if box.kind in ("start", "end") else 6
    style = f"round,pad=0,rounding_size={corner}"
    axes.add_patch(
        FancyBboxPatch((left, top), width, height, boxstyle=style, facecolor=inside, edgecolor=side, lw=0.8)
    )
    if box.kind == "group":
        _write(axes, left + 8, top + FONT - 2, box.label, colour="#555")
    else:
        _write(axes, left + width / 2, top + height / 2, box.label, align="center")


def _draw_line(axes: Any, line: Line) -> None:
    found = points(line)
    style = (0, (3, 2)) if line.dotted else "solid"
    columns, rows = zip(*found, strict=True)
    axes.plot(columns, rows, color="#555", lw=0.8, linestyle=style)
    arrow = {"arrowstyle": "-|>", "color": "#555", "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
    (x, y), (before_x, before_y) = found[-1], found[-2]
    near = (x - _step(x - before_x), y - _step(y - before_y))
    axes.annotate("", xy=(x, y), xytext=near, arrowprops=arrow)


def _step(difference: float) -> float:
    return 0 if difference == 0 else 4 if difference > 0 else -4


def _draw_label(axes: Any, label: Label) -> None:
    _write(axes, *middle(label.x, label.y), label.text, colour="#555", size=FONT - 2)


def _write(
    axes: Any, x: float, y: float, text: str, *, colour: str = "#000", align: str = "left", size: int = FONT
) -> None:
    # matplotlib would take what stands between dollars as mathematics.
    axes.text(
        x,
        y,
        text,
        ha=align,
        va="center",
        color=colour,
        family="monospace",
        fontsize=size * _POINTS,
        parse_math=False,
    )
