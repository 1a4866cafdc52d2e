"""The members of one group at their places, and the arrows between them.

Members are in layers. Between two layers is a gap, whose first row has what leaves the upper one, whose last
row has the heads of arrows, and whose rows between have the horizontal parts.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rich.cells import cell_len

from mahsm.cli._drawing.columns import Link, columns
from mahsm.cli._drawing.ranks import backward, ordered, ranks
from mahsm.cli._drawing.shapes import Box, Label, Line, Placed
from mahsm.cli._drawing.tracks import tracks
from mahsm.cli._drawing.tree import Arrow, Path

LOOP = 4
"""Columns that an arrow from a node to itself takes."""


@dataclass(frozen=True)
class _Chain:
    """An arrow, from its upper end to its lower one.

    Attributes:
        arrow: The arrow.
        upper: The path of its upper end, and `lower` that of its lower one.
        keys: The members that it passes: its ends, and bends between.
        back: Whether it leads back, from its lower end to its upper one.
    """

    arrow: Arrow
    upper: Path
    lower: Path
    keys: tuple[str, ...]
    back: bool


@dataclass(frozen=True)
class _Text:
    """The label of an arrow.

    Attributes:
        text: What it says.
        low: Whether it is at the lower end of the arrow.
    """

    text: str
    low: bool


@dataclass(frozen=True)
class _Rows:
    """The rows of a level.

    Attributes:
        rank: The layer of each member and bend.
        tops: The first row of each layer.
        ends: The first row below each layer.
        turns: The row of the horizontal part of each link.
    """

    rank: Mapping[str, int]
    tops: Sequence[int]
    ends: Sequence[int]
    turns: Mapping[Link, int]


def level(members: Mapping[str, Placed], arrows: Sequence[Arrow]) -> Placed:
    """Return the members at their places, with the arrows between them.

    Args:
        members: The members of a group, by keys.
        arrows: The arrows between them.
    """
    loops = [arrow for arrow in arrows if arrow.source == arrow.target]
    chains, layers = _layered(list(members), [arrow for arrow in arrows if arrow not in loops])
    links = [[_link(chain, members, *pair) for pair in pairwise(chain.keys)] for chain in chains]
    flat = [link for each in links for link in each]
    layers = ordered(layers, [(link.upper, link.lower) for link in flat])
    texts = _texts(chains)
    widths = _widths(members, layers, loops)
    for index, text in texts.items():
        key, port = _end(chains[index], links[index], low=text.low)
        widths[key] = max(widths[key], port + 2 + cell_len(text.text))
    left = columns(layers, widths, flat)
    rows = _rows(members, layers, flat, left)
    whole = _together(
        {key: member.moved(left[key], rows.tops[rows.rank[key]]) for key, member in members.items()}
    )
    whole.width = max((left[key] + widths[key] for key in widths), default=0)
    for index, chain in enumerate(chains):
        whole.lines.append(_line(chain, links[index], whole.leaves, left, rows))
        if text := texts.get(index):
            key, port = _end(chain, links[index], low=text.low)
            row = rows.tops[rows.rank[key]] - 1 if text.low else rows.ends[rows.rank[key]]
            whole.labels.append(Label(text.text, left[key] + port + 2, row))
    whole.lines += [_loop(whole.leaves[arrow.source], arrow) for arrow in loops]
    return whole


def _layered(keys: Sequence[str], arrows: Sequence[Arrow]) -> tuple[list[_Chain], list[list[str]]]:
    """Return the arrows with their bends, and the layers with members and bends."""
    back = backward(keys, [(arrow.source[0], arrow.target[0]) for arrow in arrows])
    ends = [
        (arrow, *((arrow.target, arrow.source) if is_back else (arrow.source, arrow.target)), is_back)
        for arrow in arrows
        for is_back in ((arrow.source[0], arrow.target[0]) in back,)
    ]
    rank = ranks(keys, [(upper[0], lower[0]) for _, upper, lower, _ in ends])
    layers: list[list[str]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    for key in keys:
        layers[rank[key]].append(key)
    chains: list[_Chain] = []
    for index, (arrow, upper, lower, is_back) in enumerate(ends):
        # No member has a colon in its key.
        bends = {place: f"{index}:{place}" for place in range(rank[upper[0]] + 1, rank[lower[0]])}
        for place, bend in bends.items():
            layers[place].append(bend)
        chains.append(_Chain(arrow, upper, lower, (upper[0], *bends.values(), lower[0]), is_back))
    return chains, layers


def _link(chain: _Chain, members: Mapping[str, Placed], upper: str, lower: str) -> Link:
    return Link(
        upper, lower, _port(chain, members, upper, chain.upper), _port(chain, members, lower, chain.lower)
    )


def _port(chain: _Chain, members: Mapping[str, Placed], key: str, path: Path) -> int:
    """Return the column at which an arrow leaves or enters, from the left of the member or bend."""
    if key not in members:
        return 0
    box = members[key].leaves[path[1:]]
    return box.aside if chain.back else box.middle


def _end(chain: _Chain, links: Sequence[Link], *, low: bool) -> tuple[str, int]:
    """Return the member at an end of an arrow, and the column there."""
    return (chain.keys[-1], links[-1].enters) if low else (chain.keys[0], links[0].leaves)


def _texts(chains: Sequence[_Chain]) -> dict[int, _Text]:
    """Return the labels of arrows, each at an end that only its arrow has, else all at their target."""
    entering = Counter(chain.lower for chain in chains if not chain.back)
    leaving = Counter(chain.upper for chain in chains if not chain.back)
    found: dict[int, _Text] = {}
    shared: dict[Path, int] = {}
    for index, chain in enumerate(chains):
        if not chain.arrow.label:
            continue
        if chain.back or entering[chain.lower] == 1:
            found[index] = _Text(chain.arrow.label, low=True)
        elif leaving[chain.upper] == 1:
            found[index] = _Text(chain.arrow.label, low=False)
        elif (first := shared.setdefault(chain.lower, index)) == index:
            found[index] = _Text(chain.arrow.label, low=True)
        else:
            found[first] = _Text(f"{found[first].text} | {chain.arrow.label}", low=True)
    return found


def _widths(
    members: Mapping[str, Placed], layers: Sequence[Sequence[str]], loops: Sequence[Arrow]
) -> dict[str, int]:
    """Return the cells that each member and bend takes, without labels."""
    looped = {arrow.source[0] for arrow in loops}
    return {
        key: members[key].width + LOOP * (key in looped) if key in members else 1
        for layer in layers
        for key in layer
    }


def _rows(
    members: Mapping[str, Placed],
    layers: Sequence[Sequence[str]],
    links: Sequence[Link],
    left: Mapping[str, int],
) -> _Rows:
    rank = {key: place for place, layer in enumerate(layers) for key in layer}
    tops: list[int] = []
    ends: list[int] = []
    turns: dict[Link, int] = {}
    row = 0
    for place, layer in enumerate(layers):
        tops.append(row)
        row += max((members[key].height for key in layer if key in members), default=0)
        ends.append(row)
        spans = {link: _span(link, left) for link in links if rank[link.upper] == place}
        bent = sorted({span for span in spans.values() if span[0] != span[1]})
        found = dict(zip(bent, tracks(bent), strict=True))
        turns |= {link: row + 1 + found.get(span, 0) for link, span in spans.items()}
        row += max(found.values(), default=-1) + 3
    return _Rows(rank, tops, ends, turns)


def _span(link: Link, left: Mapping[str, int]) -> tuple[int, int]:
    return left[link.upper] + link.leaves, left[link.lower] + link.enters


def _together(members: Mapping[str, Placed]) -> Placed:
    return Placed(
        0,
        max((box.y + box.height for member in members.values() for box in member.boxes), default=0),
        [box for member in members.values() for box in member.boxes],
        [line for member in members.values() for line in member.lines],
        [label for member in members.values() for label in member.labels],
        {(key, *path): box for key, member in members.items() for path, box in member.leaves.items()},
    )


def _line(
    chain: _Chain, links: Sequence[Link], leaves: Mapping[Path, Box], left: Mapping[str, int], rows: _Rows
) -> Line:
    """Return the line of an arrow: from the side of its source to the cell before its target."""
    upper, lower = leaves[chain.upper], leaves[chain.lower]
    spans = [(link, *_span(link, left)) for link in links]
    points = [(spans[0][1], upper.y + upper.height - (not chain.back))]
    for link, leaves_at, enters_at in spans:
        if leaves_at != enters_at:
            points += [(leaves_at, rows.turns[link]), (enters_at, rows.turns[link])]
    points.append((spans[-1][2], lower.y - (not chain.back)))
    return Line(tuple(reversed(points) if chain.back else points), chain.arrow.dotted)


def _loop(box: Box, arrow: Arrow) -> Line:
    """Return the line of an arrow from a node to itself, at its right."""
    right, bottom = box.x + box.width, box.y + box.height - 1
    turn = right + LOOP - 2
    return Line(((right - 1, bottom), (turn, bottom), (turn, box.y), (right, box.y)), arrow.dotted)
