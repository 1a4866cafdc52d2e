"""The rows of arrows between two layers."""

from collections.abc import Sequence


def tracks(spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return the row of each horizontal part of an arrow, >= 0, so that arrows can be told apart.

    Parts that begin or end at the same column may share a row: they have an end in common.

    Args:
        spans: The columns at which each part leaves above, and enters below.
    """
    found: dict[int, int] = {}
    for index in _sorted(spans):
        # An arrow that leaves where this one enters must have turned away before.
        lowest = max((found[other] + 1 for other in found if spans[other][0] == spans[index][1]), default=0)
        row = lowest
        while any(found[other] == row and _clash(spans[other], spans[index]) for other in found):
            row += 1
        found[index] = row
    return [found[index] for index in range(len(spans))]


def _sorted(spans: Sequence[tuple[int, int]]) -> list[int]:
    """Return the indices with those first that must turn before others, as far as there is no circle."""
    left, done = list(range(len(spans))), list[int]()
    while left:
        free = [
            index
            for index in left
            if not any(spans[other][0] == spans[index][1] for other in left if other != index)
        ]
        done += free or left[:1]
        left = [index for index in left if index not in done]
    return done


def _clash(one: tuple[int, int], other: tuple[int, int]) -> bool:
    if one[0] == other[0] or one[1] == other[1]:
        return False
    return min(one) <= max(other) and min(other) <= max(one)
