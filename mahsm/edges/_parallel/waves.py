"""The order of branches: which ones each branch waits for, and whose updates it sees."""

import difflib
import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mahsm.edges._parallel.branch import BranchSpec
from mahsm.errors import EdgeError

Scheduler: TypeAlias = Literal["parallel", "sequential", "wave"]


@dataclass(frozen=True)
class Plan:
    """The order of branches, by name.

    Attributes:
        layers: The branches that run at the same time, wave after wave.
        needs: The branches that each branch is known to depend on.
        waits_for: The branches that each branch waits for.
        sees: The branches whose updates each branch sees, in the order in which they are laid over the state.
        before: For each branch, those that are guaranteed to have ended before it begins.
        ancestors: For each branch, those that it depends on, directly or indirectly.
        order: All branches, each after those that it depends on.
    """

    layers: list[list[str]]
    needs: Mapping[str, Sequence[str]]
    waits_for: Mapping[str, Sequence[str]]
    sees: Mapping[str, Sequence[str]]
    before: Mapping[str, frozenset[str]]
    ancestors: Mapping[str, frozenset[str]]
    order: list[str]

    def direct(self, name: str) -> list[str]:
        """Return the branches that a branch depends on, without those that another one of them depends on."""
        needs = self.needs[name]
        found = [other for other in needs if not any(other in self.ancestors[need] for need in needs)]
        return sorted(found, key=self.order.index) if len(found) > 1 else found


def plan(
    edge: str, branches: Sequence[BranchSpec], scheduler: Scheduler, wave_size: int | None, *, eager: bool
) -> Plan:
    """Order branches.

    Raises:
        EdgeError: for unknown names, and for branches that wait for each other.
    """
    names = [branch.name for branch in branches]
    needs = _needs(edge, branches, scheduler)
    order = _sorted(edge, names, needs)
    layers = (
        [[name] for name in order]
        if scheduler == "sequential"
        else _split(_layers(order, names, needs), wave_size)
    )
    ancestors: dict[str, frozenset[str]] = {}
    for name in order:
        ancestors[name] = frozenset(needs[name]).union(*(ancestors[other] for other in needs[name]))
    if eager:
        sees = {
            name: [other for other in order if other in found] if (found := ancestors[name]) else []
            for name in names
        }
        return Plan(layers, needs, needs, sees, ancestors, ancestors, order)
    earlier: list[str] = []
    waits_for: dict[str, Sequence[str]] = {}
    for layer in layers:
        waits_for |= dict.fromkeys(layer, tuple(earlier))
        earlier += layer
    return Plan(
        layers,
        needs,
        waits_for,
        waits_for,
        {name: frozenset(waits_for[name]) for name in names},
        ancestors,
        earlier,
    )


def _needs(edge: str, branches: Sequence[BranchSpec], scheduler: Scheduler) -> dict[str, list[str]]:
    """Return what each branch depends on: those in its `after`, and those that write keys that it reads."""
    names = {branch.name: branch.position for branch in branches}
    writers: dict[str, list[BranchSpec]] = {}
    for branch in branches:
        for key in branch.writes:
            writers.setdefault(key, []).append(branch)
    needs: dict[str, list[str]] = {}
    for branch in branches:
        for name in branch.after:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                there = ", ".join(map(repr, names))
                raise EdgeError(
                    f"{edge}: the branch {branch.name!r} runs after {name!r}; expected one of {there}.{hint}"
                )
        if branch.after and scheduler == "parallel":
            raise EdgeError(
                f"{edge}: the branch {branch.name!r} runs after {', '.join(map(repr, branch.after))}, but "
                "scheduler='parallel' runs all at the same time. Pass scheduler='wave' or 'sequential'."
            )
        before = set(branch.after)
        if scheduler != "parallel":
            before |= {
                other.name for key in branch.reads for other in writers.get(key, ()) if _feeds(other, branch)
            }
        needs[branch.name] = sorted(before, key=names.__getitem__)
    return needs


def _feeds(writer: BranchSpec, reader: BranchSpec) -> bool:
    """Return whether `writer` writes what `reader` reads.

    If both read and write the same key, the first in the list counts as its writer.
    """
    keys = writer.writes & reader.reads
    both = keys & writer.reads & reader.writes
    return writer is not reader and bool(keys - both or (both and writer.position < reader.position))


def _sorted(edge: str, names: Sequence[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names, each after those that it needs, otherwise in the order of the list."""
    place = {name: at for at, name in enumerate(names)}
    missing = {name: len(needs[name]) for name in names}
    needed_by: dict[str, list[str]] = {name: [] for name in names}
    for name in names:
        for need in needs[name]:
            needed_by[need].append(name)
    ready = [at for at, name in enumerate(names) if not missing[name]]
    order: list[str] = []
    while ready:
        order.append(name := names[heapq.heappop(ready)])
        for other in needed_by[name]:
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(ready, place[other])
    if len(order) < len(names):
        left = [name for name in names if missing[name]]
        raise EdgeError(
            f"{edge}: branches wait for each other: {' -> '.join(_cycle(left, needs))}. Remove one of these "
            "dependencies."
        )
    return order


def _cycle(left: Sequence[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a path from one branch back to itself, in the order in which the branches would run."""
    path = [left[0]]
    while path[-1] not in path[:-1]:
        path.append(next(need for need in needs[path[-1]] if need in left))
    return path[path.index(path[-1]) :][::-1]


def _layers(
    order: Sequence[str], names: Sequence[str], needs: Mapping[str, Sequence[str]]
) -> list[list[str]]:
    depth: dict[str, int] = {}
    for name in order:
        depth[name] = max((depth[need] + 1 for need in needs[name]), default=0)
    layers: list[list[str]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in names:
        layers[depth[name]].append(name)
    return layers


def _split(layers: Sequence[list[str]], size: int | None) -> list[list[str]]:
    if size is None:
        return list(layers)
    return [layer[start : start + size] for layer in layers for start in range(0, len(layer), size)]
