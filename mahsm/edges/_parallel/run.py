"""One run of a `parallel` edge: each branch waits for its turn, runs, and hands in its outcome."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp, GraphInterrupt
from typing_extensions import TypedDict

from mahsm._common import State, add_note
from mahsm._waiting import TASK, Closed, Latch, tasks
from mahsm.edges._parallel.branch import BranchSpec
from mahsm.edges._parallel.merge import branch_update
from mahsm.edges._parallel.seats import Seats
from mahsm.edges._parallel.spec import ParallelSpec
from mahsm.edges._shared.attempts import AnyCall, AttemptRunner
from mahsm.edges._shared.items import Item
from mahsm.edges._shared.run import EdgeRun, needs_no_tasks, to_nobody
from mahsm.edges._shared.saving import ends_all
from mahsm.edges._shared.session import Session
from mahsm.edges._shared.streams import as_of_task, in_config
from mahsm.errors import BranchSkipped
from mahsm.nodes._internal import plain_update
from mahsm.policies import ItemError
from mahsm.policies._internal import item_error


class Outcome(TypedDict):
    """The outcome of a branch: an update, or an error."""

    branch: str
    update: State | None
    error: ItemError | None


class ParallelRun(EdgeRun):
    """One run of a `parallel`, which its branches share.

    All branches begin at the same time, as tasks of LangGraph; each then waits here for those that it depends
    on. So LangGraph saves each branch when it ends, and a slow one holds up only branches that depend on it.

    Args:
        spec: The specification.
        around: The session of the run.

    Attributes:
        direct: True if the run needs no tasks of LangGraph, since nothing is saved and no stream shows them.
    """

    def __init__(self, spec: ParallelSpec, around: Session) -> None:
        slots = spec.max_concurrency or len(spec.branches)
        super().__init__(spec.name, around, slots=slots, unsaved=slots + 2)
        self.spec = spec
        has_graphs = any(branch.target.graph is not None for branch in spec.branches)
        self.direct = not has_graphs and needs_no_tasks(around.config)
        if self.direct:
            self._item_writer = to_nobody
        self.outcomes: dict[str, Outcome] = {}
        self._ends = {branch.name: Latch() for branch in spec.branches}
        self._seats = Seats(self._seated)
        # Branches whose error the edge raises, so that they have no outcome.
        self._failed_last: set[str] = set()
        self._interrupted: set[str] = set()
        self._attempts = {branch.name: self._attempts_of(branch) for branch in spec.branches}

    @property
    def threads(self) -> int:
        return len(self.spec.branches)

    def _attempts_of(self, branch: BranchSpec) -> AttemptRunner:
        return AttemptRunner(branch, self.way, self.span, self.not_begun, self.left, self.end_late)

    def know(self, outcomes: Sequence[Outcome]) -> None:
        """Take over the outcomes of branches that ended before the run was cut short."""
        for outcome in outcomes:
            self._keep(outcome)

    async def run_all(self) -> list[Outcome]:
        """Run all branches without tasks of LangGraph; return their outcomes."""
        found: list[Outcome] = []
        bubbles: list[GraphBubbleUp] = []

        async def run(branch: BranchSpec) -> None:
            try:
                found.extend(await self.branch(branch, as_of_task(self.config, branch.name)))
            except GraphBubbleUp as error:
                bubbles.append(error)  # which does not stop the others

        cores = [partial(run, branch) for branch in self.spec.branches]
        await tasks.run_together(self.way, cores, lambda: self.pool)
        for error in bubbles:
            if not isinstance(error, GraphInterrupt):
                raise error
        if bubbles:
            raise GraphInterrupt([each for error in bubbles for each in error.args[0]])
        return found

    # A branch.

    async def branch(self, branch: BranchSpec, config: RunnableConfig) -> list[Outcome]:
        """Run a branch when its turn has come; return its outcome for its task to hand in."""
        with self.break_off.running():
            try:
                for name in self._before(branch):
                    await self._ends[name].wait(self.way, self.not_begun.on_stop)
                if (outcome := self._without_running(branch)) is not None:
                    return self._handed_in(outcome)
                context = in_config(self.item_config(config))
                self._seats.give_to(branch.name, context)
                item = context.run(self.item, branch.position)
                bind = partial(self.bind, branch.target, branch.name, may_be_left=branch.may_be_left)
                call = context.run(bind)
                found: list[Outcome] = []
                await tasks.run_in(self.way, context, lambda: self._run(branch, item, call, found))
                if self.break_off.reason is not None and not found:
                    raise Closed(self.break_off.reason)
                return self._handed_in(found[0], item)
            except GraphBubbleUp:
                raise
            except BaseException as error:
                if self.way is TASK and isinstance(error, asyncio.CancelledError):
                    raise
                self._seats.ended(branch.name)
                # Raises the error, after all other tasks have ended.
                await self.fail(error)
            finally:
                self._seats.ended(branch.name)

    def close(self, *, wait: bool) -> None:
        super().close(wait=wait)
        self._seats.close()

    async def _run(self, branch: BranchSpec, item: Item, call: AnyCall, found: list[Outcome]) -> None:
        with self.cancelled_on_stop(item):
            try:
                with self.part(branch.name, branch.position, len(self.spec.branches)):
                    attempts = self._attempts[branch.name]
                    update = await attempts.run(item, partial(self._state_of, branch), call)
                found.append(self._succeeded(branch, update))
            except asyncio.CancelledError as error:
                if self.way is TASK and tasks.is_cancelled_here():
                    raise
                # Something that the target awaited was cancelled, but the run was not.
                found.append(self._failed(branch, error, item))
            except BaseException as error:  # noqa: BLE001  the policy decides
                found.append(self._ended_with(branch, error, item))

    def _seated(self) -> dict[str, set[str]]:
        """Return the branches that may have seats, with those that each waits for."""
        return {branch.name: set(self._before(branch)) for branch in self.spec.branches}

    def _before(self, branch: BranchSpec) -> Iterable[str]:
        """Return the branches that a branch waits for.

        They are those that it depends on and all before these: when a process is killed, the outcome of a
        branch may have been saved, and that of one before it lost.
        """
        return dict.fromkeys([*self.spec.plan.waits_for[branch.name], *self.spec.plan.sees[branch.name]])

    def _handed_in(self, outcome: Outcome, item: Item | None = None) -> list[Outcome]:
        """Return an outcome as a task hands it in; branches that wait for it may then begin."""
        if self.saving is not None:
            self.saving.hand_in(outcome, int(item is not None and item.is_unsaved))
        self._keep(outcome)
        return [outcome]

    def facts(self) -> dict[str, Any]:
        ended = list(self.outcomes.values())
        succeeded = sum(outcome["error"] is None for outcome in ended)
        finished = len(ended) + len(self._failed_last)
        return {
            **self.facts_of(len(self.spec.branches), finished=finished, failed=finished - succeeded),
            "fan_in": succeeded,
            "concurrency": self.spec.max_concurrency or len(self.spec.branches),
            "scheduler": self.spec.scheduler,
            "waves": len(self.spec.plan.layers),
        }

    # The outcome of a branch.

    def _without_running(self, branch: BranchSpec) -> Outcome | None:
        """Return the outcome of a branch that cannot run; None if it can.

        Raises:
            GraphInterrupt: if it depends on one that was interrupted, and so has to wait for the next run.
            Closed: if the run was stopped.
        """
        if (ended := self.ended) is not None:
            return self._failed(branch, type(ended)(*ended.args), None)
        if (reason := self.not_begun.reason) is not None:
            raise Closed(reason)
        names = self.spec.plan.sees[branch.name]
        if not self._interrupted.isdisjoint(self.spec.plan.waits_for[branch.name]):
            self._interrupted.add(branch.name)
            self._ends[branch.name].open()
            raise GraphInterrupt(())
        needed = [name for name in names if name in self.spec.needs(branch.name)]
        failed = next((name for name in needed if self.outcomes[name]["error"] is not None), None)
        if failed is None:
            return None
        error = BranchSkipped(f"skipped, since it depends on {failed!r}, which failed")
        return Outcome(branch=branch.name, update=None, error=self._item_error(branch, error, 0))

    def _state_of(self, branch: BranchSpec) -> tuple[State, Mapping[str, Any]]:
        state = self.spec.merger.over(self.state, self.updates(self.spec.plan.sees[branch.name]))
        seen = (
            state
            if branch.seen is None
            else {key: value for key, value in state.items() if key in branch.seen}
        )
        return seen, {key: state[key] for key in branch.reads if key in state} or seen

    def updates(self, names: Sequence[str]) -> list[tuple[str, State]]:
        """Return the updates of those of these branches that succeeded."""
        found = [(name, self.outcomes[name]["update"]) for name in names]
        return [(name, update) for name, update in found if update is not None]

    def _succeeded(self, branch: BranchSpec, update: Any) -> Outcome:
        return Outcome(
            branch=branch.name, update=branch_update(branch.name, plain_update(update)), error=None
        )

    def _ended_with(self, branch: BranchSpec, error: BaseException, item: Item) -> Outcome:
        if isinstance(error, GraphBubbleUp):
            item.has_nothing()
            self._interrupted.add(branch.name)
            self._ends[branch.name].open()
            raise error
        if isinstance(error, Closed):
            reason = self.ended
            if reason is None:
                raise error
            return self._failed(branch, item.failure or type(reason)(*reason.args), item)
        if not isinstance(error, Exception | asyncio.CancelledError):
            self.stop(error)
            raise error
        return self._failed(branch, error, item)

    def _failed(self, branch: BranchSpec, error: BaseException, item: Item | None) -> Outcome:
        attempts = 0 if item is None else item.attempts
        add_note(error, f"{self.spec.name}, branch {branch.name!r}, attempt {attempts}")
        if self.spec.failures.on_error == "raise" or ends_all(error):
            self._failed_last.add(branch.name)
            self.stop(error)
            raise error
        return Outcome(branch=branch.name, update=None, error=self._item_error(branch, error, attempts))

    def _item_error(self, branch: BranchSpec, error: BaseException, attempts: int) -> ItemError:
        return item_error(
            error, edge=self.spec.name, index=branch.position, item=branch.name, attempts=attempts
        )

    def _keep(self, outcome: Outcome) -> None:
        self.outcomes[outcome["branch"]] = outcome
        self._ends[outcome["branch"]].open()
