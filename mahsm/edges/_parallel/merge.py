"""Merging the updates of several branches into one."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from mahsm._common import State, Update, as_dict, shown
from mahsm.edges._shared.edge import StateReducer
from mahsm.edges._shared.writes import update_of
from mahsm.errors import EdgeError, NodeError, StateError

Named: TypeAlias = Sequence[tuple[str, State]]
"""Updates with the names of the branches that gave them."""


def branch_update(branch: str, update: Update) -> State:
    """Return the update of a branch as a dict.

    Raises:
        NodeError: if it is not an update of a state.
    """
    if update is None:
        return {}
    try:
        return as_dict(update)
    except StateError:
        raise NodeError(
            f"the branch {branch!r} returned {shown(update)}; expected a dict of state keys."
        ) from None


class Merger:
    """Merges the updates of branches as the parent's state would.

    Args:
        edge: The edge's name.
        before: For each branch, the branches that are guaranteed to have ended before it began.
        reducers: The parent state's reducers, by key.
    """

    def __init__(
        self, edge: str, before: Mapping[str, frozenset[str]], reducers: Mapping[str, StateReducer]
    ) -> None:
        self._edge = edge
        self._before = before
        self._reducers = reducers

    def over(self, state: State, updates: Named) -> State:
        """Return the state with updates laid over it, one after the other."""
        merged = dict(state)
        self._check(updates)
        for _, update in updates:
            for key, value in update.items():
                reducer = self._reducers.get(key)
                merged[key] = value if reducer is None or key not in merged else reducer(merged[key], value)
        return merged

    def update(self, state: State, updates: Named) -> Update:
        """Return one update for the parent.

        A key that the parent reduces gets the value of each branch, any other key the last value.
        """
        self._check(updates)
        pairs = [(key, value) for _, update in updates for key, value in update.items()]
        reduced = [pair for pair in pairs if pair[0] in self._reducers]
        plain = {key: value for key, value in pairs if key not in self._reducers}
        return update_of([*plain.items(), *reduced], self._reducers, state)

    def _check(self, updates: Named) -> None:
        writers: dict[str, str] = {}
        for name, update in updates:
            for key in update.keys() - self._reducers.keys():
                other = writers.setdefault(key, name)
                if other != name and other not in self._before[name]:
                    raise EdgeError(
                        f"{self._edge}: the branches {other!r} and {name!r} both wrote {key!r}, and neither "
                        "depends on the other. If the state schema reduces the key, let the edge know: wire "
                        "it with connect(builder, ...), or add edge.within(builder) as the node. If not, let "
                        "the branches write different keys, order them with after= and scheduler='wave', or "
                        "pass merge=lambda state, updates: {...}."
                    )
                writers[key] = name
