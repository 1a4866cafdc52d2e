"""`mahsm draw`, as a user runs it."""

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.cli.conftest import Command, process

APP = """
from typing import Any, TypedDict
from langgraph.graph import END, START, StateGraph
from mahsm import connect, vmap

class State(TypedDict, total=False):
    xs: list[Any]
    ys: list[Any]

def shout(state):
    return state["item"].upper()

fan = vmap(shout, batch_key="xs", out_key="ys", name="fan")
print("imported")

def build():
    builder = StateGraph(State).add_node("load", lambda state: state)
    return connect(builder, START, "load", fan, END)
"""

DRAWN = """\
    ╭───────╮
    │ start │
    ╰───────╯
        │
        ▼
    ┌───────┐
    │ load  │
    └───────┘
        │
        │
┌ fan ──┼─────────────┐
│       ▼             │
│   ╭───────╮         │
│   │ start │         │
│   ╰───────╯         │
│       ┆             │
│       ▼ each of xs  │
│   ┌───────┐         │
│   │ shout │         │
│   └───────┘         │
│       ┆             │
│       ▼ ys          │
│    ╭─────╮          │
│    │ end │          │
│    ╰─────╯          │
└───────┼─────────────┘
        │
        ▼
     ╭─────╮
     │ end │
     ╰─────╯
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The current folder, with a graph."""
    (tmp_path / "drawn_app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("drawn_app", None)


def test_in_a_terminal(folder: Path) -> None:
    told = process("draw", "drawn_app:build", folder=folder)
    assert (told.code, told.err) == (0, "imported\n")
    assert told.out == DRAWN


@pytest.mark.parametrize("format", ["terminal", "mermaid", "svg"])
def test_as_json(format: str, folder: Path, mahsm: Command) -> None:
    document = mahsm("draw", "drawn_app.py:fan", "--format", format, "--json").document
    assert document["format"] == format
    assert "shout" in document["drawing"]


@pytest.mark.parametrize(
    ("name", "begins"),
    [
        ("graph.txt", DRAWN.encode()),
        ("graph.mmd", b"---\nconfig:"),
        ("graph.svg", b"<svg "),
        ("graph.png", b"\x89PNG\r\n"),
    ],
)
def test_into_a_file_whose_ending_is_the_format(
    name: str, begins: bytes, folder: Path, mahsm: Command
) -> None:
    told = mahsm("draw", "drawn_app:build", "--output", name, "--json")
    data = (folder / name).read_bytes()
    assert data.startswith(begins)
    assert told.document["bytes"] == len(data)
    assert mahsm("draw", "drawn_app:build", "--out", name).out.endswith(f" in {name}\n")


def test_a_format_wins_over_an_ending(folder: Path, mahsm: Command) -> None:
    mahsm("draw", "drawn_app:build", "--output", "graph.drawing", "--format", "svg")
    root = ElementTree.fromstring((folder / "graph.drawing").read_text())
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert sorted(map(str, texts)) == sorted(
        ["start", "load", "fan", "start", "shout", "end", "end", "each of xs", "ys"]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("drawn_app:build", "--format", "png"), "a PNG is not printed; pass --out with a file"),
        (("drawn_app:build", "--out", "x.gif"), "has the ending '.gif'; expected .txt, .mmd, .svg, .png"),
        (("drawn_app:build", "--out", "no/x.svg"), "no folder 'no'; make it first."),
        (("drawn_app:build", "--format", "gif"), 'Invalid value "gif" for --format.'),
        (
            ("drawn_app:shout",),
            "is a function that takes arguments; expected a graph, an edge",
        ),
        (("drawn_app:buidl",), "Did you mean 'build'?"),
    ],
)
def test_mistakes_are_exit_code_2(options: Any, message: str, folder: Path, mahsm: Command) -> None:
    told = mahsm("draw", *options)
    assert (told.code, told.out) == (2, "")
    assert message in told.err.splitlines()[-1]


def test_png_without_matplotlib(folder: Path, mahsm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    told = mahsm("draw", "drawn_app:build", "--out", "x.png")
    assert told.code == 2
    assert "PNG needs matplotlib: pip install 'mahsm[draw]'; SVG needs nothing." in told.err


def test_a_runnable_of_langchain(folder: Path, mahsm: Command) -> None:
    chain = "from langchain_core.runnables import RunnableLambda as R\nchain = R(len) | R(str)\n"
    (folder / "drawn_app.py").write_text(chain)
    assert "str" in mahsm("draw", "drawn_app:chain").out
