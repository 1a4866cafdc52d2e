"""The layers of a group's members, and their order in each layer."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean

SWEEPS = 8


def backward(keys: Sequence[str], pairs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the pairs that lead back: without them, there is no circle.

    Args:
        keys: The members; of a circle, the one that comes first is the top.
        pairs: The sources and targets of arrows.
    """
    after: dict[str, list[str]] = {key: [] for key in keys}
    for source, target in pairs:
        after[source].append(target)
    found: set[tuple[str, str]] = set()
    done: set[str] = set()
    for first in keys:
        open_now, stack = {first}, [(first, iter(after[first]))] if first not in done else []
        while stack:
            key, rest = stack[-1]
            target = next(rest, None)
            if target is None:
                done.add(key)
                open_now.discard(key)
                stack.pop()
            elif target in open_now:
                found.add((key, target))
            elif target not in done:
                open_now.add(target)
                stack.append((target, iter(after[target])))
    return found


def ranks(keys: Sequence[str], pairs: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Return the layer of each member, >= 0: one more than the lowest of those before it.

    Args:
        keys: The members.
        pairs: The sources and targets of arrows, without circles.
    """
    before: dict[str, list[str]] = {key: [] for key in keys}
    for source, target in pairs:
        before[target].append(source)
    found: dict[str, int] = {}
    # No path is longer than the number of members.
    for _ in keys:
        ready = [key for key in keys if key not in found and all(each in found for each in before[key])]
        for key in ready:
            found[key] = max((found[each] + 1 for each in before[key]), default=0)
    return found


def ordered(layers: list[list[str]], pairs: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return the layers with their members in an order with few crossings.

    Args:
        layers: The members of each layer.
        pairs: The arrows between neighbouring layers, upper member first.
    """
    below: dict[str, list[str]] = {}
    above: dict[str, list[str]] = {}
    for upper, lower in pairs:
        below.setdefault(upper, []).append(lower)
        above.setdefault(lower, []).append(upper)
    best, fewest = layers, _crossings(layers, pairs)
    for sweep in range(SWEEPS):
        layers = [list(layer) for layer in layers]
        down = sweep % 2 == 0
        for fixed, layer in pairwise(layers if down else layers[::-1]):
            _sort(layer, fixed, above if down else below)
        if (crossings := _crossings(layers, pairs)) < fewest:
            best, fewest = layers, crossings
    return best


def _sort(layer: list[str], fixed: list[str], neighbours: dict[str, list[str]]) -> None:
    """Sort a layer by the mean place of its neighbours in a layer that stays; others keep their place."""
    places = {key: place for place, key in enumerate(fixed)}
    own = {key: place for place, key in enumerate(layer)}
    means = {
        key: fmean(places[each] for each in neighbours[key]) if neighbours.get(key) else own[key]
        for key in layer
    }
    layer.sort(key=lambda key: means[key])


def _crossings(layers: list[list[str]], pairs: Sequence[tuple[str, str]]) -> int:
    place = {key: (rank, index) for rank, layer in enumerate(layers) for index, key in enumerate(layer)}
    lines = [(*place[upper], place[lower][1]) for upper, lower in pairs]
    return sum(
        first[0] == second[0] and (first[1] - second[1]) * (first[2] - second[2]) < 0
        for index, first in enumerate(lines)
        for second in lines[:index]
    )
