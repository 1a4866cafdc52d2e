"""The columns of the members of each layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

GAP = 3
"""Cells between two members of a layer."""
SWEEPS = 12


@dataclass(frozen=True)
class Link:
    """A part of an arrow, from one layer to the next.

    Attributes:
        upper: The member that it begins at, and `lower` that it ends at.
        leaves: The column where it leaves the upper member, from the left of that member.
        enters: The column where it enters the lower one.
    """

    upper: str
    lower: str
    leaves: int
    enters: int


def columns(
    layers: Sequence[Sequence[str]], widths: Mapping[str, int], links: Sequence[Link]
) -> dict[str, int]:
    """Return the left column of each member, >= 0: near those that it has arrows to, without overlap.

    Args:
        layers: The members of each layer, from left to right.
        widths: The cells that each member takes.
        links: The arrows between neighbouring layers.
    """
    found: dict[str, float] = {}
    for layer in layers:
        total = sum(widths[key] for key in layer) + GAP * (len(layer) - 1)
        left = -total / 2
        for key in layer:
            found[key] = left
            left += widths[key] + GAP
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for layer in layers if down else layers[::-1]:
            wanted = {key: _wanted(key, links, found, down=down) for key in layer}
            found |= _apart(layer, widths, wanted)
    left = min(found.values(), default=0)
    rounded: dict[str, int] = {}
    for layer in layers:
        end = 0
        for key in layer:
            rounded[key] = max(end, round(found[key] - left))
            end = rounded[key] + widths[key] + GAP
    return rounded


def _wanted(key: str, links: Sequence[Link], found: Mapping[str, float], *, down: bool) -> float:
    """Return the column at which a member's arrows from above, or to below, are straight on average."""
    if down:
        wishes = [found[each.upper] + each.leaves - each.enters for each in links if each.lower == key]
    else:
        wishes = [found[each.lower] + each.enters - each.leaves for each in links if each.upper == key]
    return fmean(wishes) if wishes else found[key]


def _apart(layer: Sequence[str], widths: Mapping[str, int], wanted: Mapping[str, float]) -> dict[str, float]:
    """Return columns near the wanted ones, in order and without overlap.

    Pushing members to the right from the first one, and to the left from the last one, both give such
    columns; so does their mean.
    """
    right: dict[str, float] = {}
    end = float("-inf")
    for key in layer:
        right[key] = max(wanted[key], end)
        end = right[key] + widths[key] + GAP
    left: dict[str, float] = {}
    begin = float("inf")
    for key in reversed(layer):
        left[key] = min(wanted[key], begin - widths[key] - GAP)
        begin = left[key]
    return {key: (right[key] + left[key]) / 2 for key in layer}
