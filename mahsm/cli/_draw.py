"""`mahsm draw`: a graph or an edge, with the graphs inside."""

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import Parameter

from mahsm.cli._outcome import Json, Output, UsageError

Format: TypeAlias = Literal["terminal", "mermaid", "svg", "png"]

ENDINGS: dict[str, Format] = {".txt": "terminal", ".mmd": "mermaid", ".svg": "svg", ".png": "png"}
"""For the ending of a file, the format."""


def draw(
    target: str,
    /,
    *,
    format: Format | None = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o", "--output"])] = None,
    json: Json = False,
) -> Output:
    """Draw a graph or an edge, with the graphs inside. Nothing is sent anywhere.

    Args:
        target: The graph as `module:name` or `path/to/file.py:name`: a graph, an edge, or a function without
            parameters that returns one. The current folder is importable.
        format: By default that of the file's ending (.txt, .mmd, .svg, .png), else terminal.
        out: The file to write; by default, the drawing is printed. PNG needs it.
    """
    from mahsm.cli._target import graph_of

    chosen = format or (_format_of(out) if out else "terminal")
    if chosen == "png" and out is None:
        raise UsageError("a PNG is not printed; pass --out with a file, such as --out graph.png.")
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"--out {str(out)!r}: no folder {str(out.parent)!r}; make it first.")
    graph = graph_of(target)
    xray = {"xray": True} if "xray" in inspect.signature(graph.get_graph).parameters else {}
    drawn = _drawn(graph.get_graph(**xray), chosen, target)
    if out is None:
        return Output({"format": chosen, "drawing": drawn}, [str(drawn).rstrip("\n")], json)
    data = drawn if isinstance(drawn, bytes) else f"{drawn.rstrip()}\n".encode()
    out.write_bytes(data)
    told = {"format": chosen, "output": str(out), "bytes": len(data)}
    return Output(told, [f"{chosen} in {out}"], json)


def _format_of(out: Path) -> Format:
    if (found := ENDINGS.get(out.suffix.lower())) is None:
        raise UsageError(
            f"--out {str(out)!r} has the ending {out.suffix!r}; expected {', '.join(ENDINGS)}, or "
            "pass --format."
        )
    return found


def _drawn(graph: Any, chosen: Format, title: str) -> str | bytes:
    if chosen == "mermaid":
        return graph.draw_mermaid()
    from mahsm.cli import _drawing

    picture = _drawing.picture_of(graph)
    if chosen == "svg":
        return _drawing.svg(picture, title)
    if chosen == "terminal":
        return _drawing.text(picture)
    try:
        return _drawing.png(picture)
    except ImportError as error:
        raise UsageError(str(error)) from error
