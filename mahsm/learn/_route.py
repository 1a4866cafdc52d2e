"""`route`: an edge that sends its state to one of several targets, as a router decides."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mahsm._common import State, check, missing, shown
from mahsm.edges import Edge
from mahsm.edges._internal import Situation, Step, constructor, routed
from mahsm.errors import LearnError, MissingKeyError
from mahsm.learn._choice import Choice
from mahsm.learn._router import Router, numbers_of
from mahsm.learn._trial import Trial, trial_here


@constructor(
    **dict.fromkeys(("retry", "timeout", "rate_limit"), "It belongs to a target: Branch(target, retry=...).")
)
def route(
    router: Router,
    targets: Mapping[str, Any],
    *,
    key: str | None = None,
    write_to: str = "choice",
    name: str | None = None,
) -> Edge:
    """Send the state to one of several targets, as a router decides.

    The edge returns the update of the target, and under `write_to` the choice, as a row of `learn.logs`:
    `{"arm": arm, "propensity": number, "id": id, "features": numbers}`. Give the id to `router.reward` when
    you know how good the answer was. Declare the key in the state, or LangGraph drops it. As the target of a
    `vmap`, the edge routes each item by itself; let the router have `head="thompson"` then.

    With a checkpointer, a resumed run keeps a choice that was saved. `durability="sync"` saves it before the
    target runs. LangGraph's default, `"async"`, saves it meanwhile: after a kill before that, the resumed run
    chooses again.

    Args:
        router: The router.
        targets: What to call for each arm: anything that `vmap` takes, or a `Branch` with its own retry,
            timeout and rate limit.
        key: State key whose value the router decides by; by default the whole state, which its `features`
            turns into numbers. A router without `features` then decides without looking at the input.
        write_to: State key for the choice.
        name: Node name; by default `route_` and the arms.

    Returns:
        An edge that writes what its targets write, and `write_to`.

    Raises:
        EdgeError: immediately, for invalid arguments.
        NodeError: immediately, for a target that cannot be called with a state.
        LearnError: immediately, if the targets are not the arms of the router; when run, if it cannot decide.
        MissingKeyError: when run, if the state lacks `key`.

    Example:
        >>> from mahsm.learn import Router, route
        >>> router = Router(["short", "long"], features=lambda state: [len(state["text"]) / 100], seed=0)
        >>> edge = route(router, {
        ...     "short": lambda state: {"answer": "brief"},
        ...     "long": lambda state: {"answer": "in depth"},
        ... })
        >>> found = edge.invoke({"text": "Why?"})
        >>> router.reward(found["choice"]["id"], found["answer"] == "brief")
        >>> found["choice"]["arm"]
        'short'
    """
    edge = "route" if name is None else f"route {name!r}"
    check.of_type(edge, "router", router, Router, "a mahsm.learn.Router")
    if not isinstance(targets, Mapping) or set(targets) != set(router.labels):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LearnError(
            f"{edge}: targets={shown(targets)}; expected a dict with a target for each arm of the router: "
            f"{', '.join(map(repr, router.labels))}."
        )
    if key is not None:
        check.key(edge, "key", key)
    return routed(edge, targets, ByRouter(router, key, edge), name=name, write_to=write_to)


@dataclass(frozen=True)
class ByRouter:
    """Chooses one branch by a router."""

    router: Router
    key: str | None
    edge: str
    judge: None = None

    async def step(self, now: Situation) -> Step:
        if now.asked:
            return Step(next=None, note=now.asked[0].step["note"])
        if self.key is not None and self.key not in now.state:
            raise MissingKeyError(f"{self.edge}: {missing(now.state, self.key)} The router decides by it.")
        x, trial = self._input(now.state), trial_here()
        decide = self.router.route if trial is None else partial(self._tried, trial)
        # An embedder may wait for a server.
        choice = await now.way.call_blocking(lambda: decide(x))
        return Step(next=choice.arm, note=choice.row())

    def _input(self, state: State) -> Any:
        if self.key is not None:
            return state[self.key]
        return None if self.router.features is None else state

    def _tried(self, trial: Trial, x: Any) -> Choice:
        """Choose as a trial says, or the best arm; no choice waits for a reward."""
        place, features = trial.place(), numbers_of(self.router, x)
        arm = trial.told(self) or self.router.best(features)
        trial.saw(self, place, features)
        trial.asked.append((self, arm))
        return Choice(arm, 1.0, "", features)
