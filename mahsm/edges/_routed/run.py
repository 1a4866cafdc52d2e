"""One run of an edge that chooses its branches."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from langchain_core.runnables import RunnableConfig

from mahsm._common import State
from mahsm._waiting import tasks
from mahsm.edges._parallel import BranchSpec, ParallelRun, ParallelSpec
from mahsm.edges._routed.chooser import Asked, Chooser, Situation, Step
from mahsm.edges._shared.session import Session
from mahsm.edges._shared.streams import as_of_task, in_config
from mahsm.errors import EdgeError

CHOOSE = "choose"
"""The node that decides what comes next."""

_OF_PARALLEL = ("scheduler", "waves", "concurrency")


class RoutedRun(ParallelRun):
    """One run, in which one branch at a time is called.

    Args:
        spec: The branches, which do not depend on each other.
        chooser: Chooses the next one.
        judge: The target of the chooser, if it has one.
        around: The session of the run.
    """

    def __init__(
        self, spec: ParallelSpec, chooser: Chooser, judge: BranchSpec | None, around: Session
    ) -> None:
        super().__init__(spec, around)
        self._chooser = chooser
        self._judge = judge
        self._named = {branch.name: branch for branch in spec.branches}

    def _seated(self) -> dict[str, set[str]]:
        return {}  # one branch at a time has the seat of the item around

    async def step(self, done: Sequence[Any], config: RunnableConfig) -> Step:
        """Decide what comes next, given what tasks have handed in."""
        found: list[Step] = []
        now = Situation(self.way, list(self._named), self.state, asked_of(done), self._call_judge)

        async def decide() -> None:
            found.append(await self._chooser.step(now))

        await tasks.run_in(self.way, in_config(self.item_config(config)), decide)
        self._tell(found[0]["note"])
        return found[0]

    def _tell(self, note: Mapping[str, Any]) -> None:
        """Write the choice of a router into the trace, as soon as it is made: its reward may come at once."""
        if self.span is None or "id" not in note:
            return
        facts = {f"choice_{name}": note[name] for name in ("id", "arm", "propensity", "features")}
        self.span.note({**facts, "arms": list(self._named)})

    async def run_all(self) -> list[Any]:
        done: list[Any] = []
        while True:
            step = await self.step(done, as_of_task(self.config, CHOOSE))
            done.append(step)
            if step["next"] is None:
                return done
            branch = self._named[step["next"]]
            done.extend(await self.branch(branch, as_of_task(self.config, branch.name)))

    async def _call_judge(self, state: State) -> Any:
        judge = self._judge
        assert judge is not None
        item = self.item(judge.position)
        call = self.bind(judge.target, judge.name, may_be_left=judge.may_be_left)
        with self.cancelled_on_stop(item), self.part(judge.name, judge.position, judge.position + 1):
            return await self._attempts_of(judge).run(item, lambda: (state, state), call)

    def facts(self) -> dict[str, Any]:
        facts = super().facts()
        return {key: value for key, value in facts.items() if key not in _OF_PARALLEL} | {
            "asked": list(self.outcomes)
        }


def asked_of(done: Sequence[Any]) -> list[Asked]:
    """Return the branches that have run, with the decisions for them."""
    steps = [cast("Step", one) for one in done if "next" in one]
    updates: dict[str, State] = {one["branch"]: one["update"] or {} for one in done if "branch" in one}
    return [Asked(step, updates[step["next"]]) for step in steps if step["next"] in updates]


def last_step(edge: str, done: Sequence[Any]) -> Step:
    """Return the decision that ended a run."""
    for one in reversed(done):
        if "next" in one and one["next"] is None:
            return one
    raise EdgeError(f"{edge}: the saved results of this run have no last decision. Begin a new run.")
