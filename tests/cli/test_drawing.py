"""Pictures of graphs: what is where."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.runnables.graph import Edge, Graph, Node

from mahsm.cli._drawing import Picture, picture_of, png, svg, text
from mahsm.cli._drawing.ranks import backward, ordered, ranks
from mahsm.cli._drawing.shapes import Box
from mahsm.cli._drawing.tracks import tracks


def graph_of(*arrows: tuple[str, ...], nodes: Sequence[str] = ()) -> Graph:
    """A drawing of LangGraph's, with arrows from, to and with a label."""
    names = dict.fromkeys([*nodes, *(name for arrow in arrows for name in arrow[:2])])
    return Graph(
        nodes={name: Node(name, name.rpartition(":")[2], None, None) for name in names},
        edges=[Edge(arrow[0], arrow[1], arrow[2] if arrow[2:] else None) for arrow in arrows],
    )


def drawn(*arrows: tuple[str, ...], nodes: Sequence[str] = ()) -> str:
    return text(picture_of(graph_of(*arrows, nodes=nodes))) + "\n"


def test_branches_meet_again() -> None:
    assert (
        drawn(("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"))
        == """\
    ┌───┐
    │ a │
    └───┘
      │
  ┌───┴───┐
  ▼       ▼
┌───┐   ┌───┐
│ b │   │ c │
└───┘   └───┘
  │       │
  └───┬───┘
      ▼
    ┌───┐
    │ d │
    └───┘
"""
    )


def test_an_arrow_that_leads_back_and_one_to_itself() -> None:
    assert (
        drawn(("a", "b"), ("b", "a", "again"), ("b", "b"))
        == """\
┌───┐
│ a │
└───┘
  │▲
  ▼│ again
┌───┐◀─┐
│ b │  │
└───┘──┘
"""
    )


def test_an_arrow_passes_a_layer() -> None:
    assert (
        drawn(("a", "b"), ("b", "c"), ("a", "c"))
        == """\
   ┌───┐
   │ a │
   └───┘
     │
  ┌──┴──┐
  ▼     │
┌───┐   │
│ b │   │
└───┘   │
  │     │
  └──┬──┘
     ▼
   ┌───┐
   │ c │
   └───┘
"""
    )


def test_groups_have_frames_and_labels() -> None:
    assert (
        drawn(("a", "team:x"), ("team:x", "team:team/in:y"), ("team:team/in:y", "b"))
        == """\
       ┌───┐
       │ a │
       └───┘
         │
         │
┌ team ──┼──────┐
│        ▼      │
│      ┌───┐    │
│      │ x │    │
│      └───┘    │
│        │      │
│        │      │
│ ┌ in ──┼────┐ │
│ │      ▼    │ │
│ │    ┌───┐  │ │
│ │    │ y │  │ │
│ │    └───┘  │ │
│ └──────┼────┘ │
└────────┼──────┘
         │
         ▼
       ┌───┐
       │ b │
       └───┘
"""
    )


def test_labels_of_several_arrows_to_one_target_are_all_there() -> None:
    shown = drawn(("a", "d", "one"), ("a", "b"), ("b", "d", "two"), ("b", "c"))
    assert "one" in shown
    assert "two" in shown


def test_wide_characters_take_two_cells() -> None:
    lines = drawn(("日本", "b")).splitlines()
    assert lines[:3] == ["┌───────┐", "│ 日本  │", "└───────┘"]


def test_a_graph_without_arrows_or_nodes() -> None:
    assert drawn(nodes=["a", "b"]).splitlines()[1] == "│ a │   │ b │"
    assert drawn() == "\n"


def test_svg_and_png_escape_labels() -> None:
    picture = picture_of(graph_of(("<a> & $b$", "c", "x < y")))
    assert "&lt;a&gt; &amp; $b$" in svg(picture, "<title>")
    assert "<title>&lt;title&gt;</title>" in svg(picture, "<title>")
    assert png(picture).startswith(b"\x89PNG")


# Properties of any graph.

NAMES = [f"{group}{name}" for group in ("", "g:", "g:h:", "k:") for name in "abcd"]
GRAPHS = st.lists(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.sampled_from(["", "label"])), max_size=14
)


def inside(outer: Box, inner: Box) -> bool:
    return (
        outer.x <= inner.x
        and outer.y <= inner.y
        and inner.x + inner.width <= outer.x + outer.width
        and inner.y + inner.height <= outer.y + outer.height
    )


def apart(one: Box, other: Box) -> bool:
    return (
        one.x + one.width <= other.x
        or other.x + other.width <= one.x
        or one.y + one.height <= other.y
        or other.y + other.height <= one.y
    )


def check(picture: Picture, arrows: list[Any]) -> None:
    whole = Box("", "group", 0, 0, picture.width, picture.height)
    for one, other in combinations(picture.boxes, 2):
        assert apart(one, other) or (one.kind == "group" and inside(one, other))
    for box in picture.boxes:
        assert inside(whole, box)
    assert len(picture.lines) == len(arrows)
    for line in picture.lines:
        for one, other in pairwise(line.points):
            assert (one[0] == other[0]) != (one[1] == other[1]) or one == other
        for column, row in line.points:
            assert 0 <= column < picture.width
            assert 0 <= row < picture.height


@settings(max_examples=150)
@given(GRAPHS)
def test_nothing_overlaps_and_nothing_is_outside(arrows: list[tuple[str, str, str]]) -> None:
    picture = picture_of(graph_of(*arrows))
    check(picture, arrows)
    shown = text(picture)
    for name in {name for arrow in arrows for name in arrow[:2]}:
        assert f" {name.rpartition(':')[2]} " in shown
    assert svg(picture).count("<path d=") == len(arrows) + 1


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef")), max_size=15))
def test_layers_go_down(pairs: list[tuple[str, str]]) -> None:
    pairs = [pair for pair in pairs if pair[0] != pair[1]]
    back = backward("abcdef", pairs)
    forward = [pair for pair in pairs if pair not in back] + [(lower, upper) for upper, lower in back]
    found = ranks("abcdef", forward)
    assert found.keys() == set("abcdef")
    assert all(found[upper] < found[lower] for upper, lower in forward)


def test_the_order_in_layers_avoids_crossings() -> None:
    pairs = [("a", "y"), ("b", "x"), ("c", "z")]
    assert ordered([["a", "b", "c"], ["x", "y", "z"]], pairs)[1] in (["y", "x", "z"], ["x", "y", "z"])
    layers = ordered([["a", "b", "c"], ["x", "y", "z"]], pairs)
    assert [layers[0].index(upper) for upper, _ in pairs] == [layers[1].index(lower) for _, lower in pairs]


def test_arrows_that_would_be_confused_have_rows_of_their_own() -> None:
    assert tracks([(0, 8), (4, 12)]) == [0, 1]
    assert tracks([(0, 8), (0, 12)]) == [0, 0]
    assert tracks([(0, 8), (12, 8)]) == [0, 0]
    assert tracks([(0, 4), (8, 12)]) == [0, 0]
    assert tracks([(0, 8), (8, 16)]) == [1, 0], "the second turns away before the first comes"
    assert sorted(tracks([(0, 8), (8, 0)])) == [0, 1]
