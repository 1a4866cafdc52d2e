"""`Lowering`: compiles an edge into a LangGraph subgraph, and runs that subgraph."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    contextmanager,
    nullcontext,
)
from functools import partial
from typing import Any, Generic, TypeVar, cast

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp

from mahsm._common import State, Update, as_dict, cached
from mahsm._waiting import TASK, THREAD, Closed, Way, run_blocking, tasks
from mahsm.edges._shared.done import Done, RepeatedDone, keeps_history
from mahsm.edges._shared.drawing import Deferred, DrawnGraph
from mahsm.edges._shared.edge import Compiled
from mahsm.edges._shared.items import current_item
from mahsm.edges._shared.run import EdgeRun, to_nobody
from mahsm.edges._shared.session import Session, session
from mahsm.edges._shared.streams import heard_run
from mahsm.errors import EdgeError
from mahsm.nodes._internal import EDGE, StreamTarget, position
from mahsm.policies import Budget
from mahsm.policies._internal import Spending, spendings

RunT = TypeVar("RunT", bound=EdgeRun)


class Lowering(ABC, Generic[RunT]):
    """The subgraph of one edge, and the code that runs it.

    State and batch stay outside of the subgraph, so that no checkpoint repeats them: they are in the run,
    which nodes of the subgraph find in a context variable.

    Args:
        name: The edge's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @cached
    def graph(self) -> Compiled:
        """The subgraph, which is compiled when it is first used."""
        return Deferred(lambda: self._compile(Done))

    @cached
    def _graph_without_history(self) -> Compiled:
        return self._compile(RepeatedDone)

    async def _graph_of(self, run: RunT) -> Compiled:
        """Return the subgraph, as the run's checkpointer needs it."""
        return self.graph if await keeps_history(run.way, run.config) else self._graph_without_history

    @abstractmethod
    def _compile(self, state: type[Any]) -> DrawnGraph:
        """Make the subgraph; `state` is its schema."""

    @abstractmethod
    def _begin(self, around: Session) -> RunT:
        """Make a run in a session."""

    @abstractmethod
    def _inner(self, config: RunnableConfig, run: RunT) -> RunnableConfig:
        """Return the subgraph's config."""

    @abstractmethod
    async def _finish(self, run: RunT, done: list[Any]) -> Update:
        """Return the edge's update, given the results that its tasks have handed in."""

    @abstractmethod
    def _shown(self, run: RunT, node: str, done: list[Any]) -> State:
        """Return the part of a task's results that streams of subgraphs show."""

    def _shown_update(self, run: RunT, node: str, update: Any) -> Any:
        written = cast("dict[str, Any]", update) if isinstance(update, dict) else {}
        return self._shown(run, node, written["done"]) if "done" in written else cast("object", update)

    def _show(self, run: RunT, mode: str, payload: Any) -> Any:
        """Return a chunk of the subgraph's stream as users see it; None to leave it out."""
        if mode == "updates":
            updates = cast("dict[str, Any]", payload)
            shown = {node: self._shown_update(run, node, update) for node, update in updates.items()}
            return {node: update for node, update in shown.items() if update} or None
        if mode == "values" and "done" in payload:
            return self._shown(run, "", payload["done"]) | {
                key: payload[key] for key in payload if key != "done"
            }
        return payload

    async def _prepare(self, run: RunT, config: RunnableConfig) -> None:
        """Prepare the run, such as by reading earlier results from the checkpoint."""

    # Options of a run.

    kind = "edge"
    """The kind of the edge in traces."""

    @property
    def budget(self) -> Budget | None:
        """The most that each run may spend."""
        return None

    @property
    def deadline(self) -> float | None:
        """Seconds that each run may take."""
        return None

    @property
    def retries(self) -> bool:
        """True if the edge retries its calls, so that clients must not do it too."""
        return False

    # One run.

    async def run(self, way: Way, state: Any, config: RunnableConfig) -> Update:
        """Run the subgraph."""
        values = as_dict(state)
        async with heard_run(way, self.name, config, values) as heard:
            options: Any = {"budget": self.budget, "retries": self.retries}
            with session(self.kind, self.name, way, values, heard.config, **options) as around:
                async with self._opened(around) as begin:
                    with self._begun(around, begin) as run:
                        run.heard_as = heard
                        return await self._run(run)

    def _opened(self, around: Session) -> AbstractAsyncContextManager[Callable[[Session], RunT]]:
        """Return a block in which what the run reads is open; it yields the function that makes the run."""
        return nullcontext(self._begin)

    async def _run(self, run: RunT) -> Update:
        if run.is_empty:
            return await self._finish(run, [])
        # A task that was stopped because another one failed ends with `Closed`, which LangGraph may raise.
        try:
            async with run.on_slots():
                try:
                    await self._prepare(run, run.config)
                    return run.shown(await self._finish(run, self._done(run, await self._ran(run))))
                finally:
                    run.close(wait=run.way is THREAD)
        except (Closed, GraphBubbleUp) as error:
            raise _reason(run, error) from _reason(run, error).__cause__
        except BaseException as error:
            # Edges inside blocking targets do not notice a cancellation, so they are stopped.
            run.stop(error)
            raise

    async def _ran(self, run: RunT) -> dict[str, Any]:
        """Run the subgraph; return its final state.

        Ctrl-C in the main thread stops the run, and then lets it end.
        """
        if run.way is TASK:
            return await self._invoked(run)
        return tasks.call_with_stop(lambda: run_blocking(self._invoked(run)), run.stop)

    async def _invoked(self, run: RunT) -> dict[str, Any]:
        with run.subgraph(self._inner(run.config, run), partial(self._show, run)) as inner:
            graph = await self._graph_of(run)
            found = await run.way.call(lambda: graph.invoke({}, inner), lambda: graph.ainvoke({}, inner))
            # None, if no task has written anything.
            return found or {}

    def running(self) -> RunT:
        """Return the run that a node of the subgraph is in."""
        run = position.get().runs.get(self)
        if run is None:
            raise EdgeError(
                f"{self.name}: this subgraph runs only inside its edge, and was run by itself. Run or resume "
                "the graph that holds the edge."
            )
        return cast("RunT", run)

    def _begun(self, around: Session, begin: Callable[[Session], RunT]) -> AbstractContextManager[RunT]:
        """Return a block that is a run, which the item, budgets and deadline around it can stop."""
        return self._stoppable(around, begin)

    @contextmanager
    def _stoppable(self, around: Session, begin: Callable[[Session], RunT]) -> Generator[RunT, None, None]:
        run, now = begin(around), position.get()
        stream = now.stream or StreamTarget(
            run.writer or to_nobody, {**run.config.get("metadata", {}), EDGE: self.name}, _item
        )
        token = position.set(now.inside(self, run, stream))
        try:
            with (
                nullcontext() if now.item is None else now.item.running.on_stop(run.stop_from_outside),
                self._with_ends(run, spendings()),
            ):
                yield run
        finally:
            position.reset(token)
            if run.span is not None:
                run.span.note(run.facts())

    def _with_ends(self, run: RunT, around: Sequence[Spending]) -> AbstractContextManager[object]:
        """Return a block in which the deadline and the budgets around end the run."""
        if not around and self.deadline is None:
            return nullcontext()
        stack = ExitStack()
        for spending in around:
            stack.enter_context(spending.on_stop(run.end))
        if self.deadline is not None:
            stack.callback(tasks.after(self.deadline, partial(run.end_late, self.deadline)))
        return stack

    def _done(self, run: RunT, state: dict[str, Any]) -> list[Any]:
        if run.break_off.reason is not None:
            raise Closed(run.break_off.reason)
        if "__interrupt__" in state:
            raise EdgeError(
                f"{self.name}: a target called interrupt(), but the edge runs alone, without a "
                "checkpointer. Use edge.compile(checkpointer=...), or compile the graph that holds the edge "
                "with one."
            )
        # Empty, if the tasks of a resumed run belong to a node that does not exist any more.
        return state.get("done", [])


def _item() -> tuple[int, ...]:
    item = current_item()
    return item.order if item is not None else ()


def _reason(run: EdgeRun, error: Closed | GraphBubbleUp) -> BaseException:
    """Return the error to raise when a run has ended with `error`: the reason why it broke off, if it did."""
    reason = error.reason if isinstance(error, Closed) else run.break_off.reason
    if reason is None:
        return error
    return Closed(reason) if run.stopped_from_outside else reason
