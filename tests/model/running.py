"""One run after the other, until the graph is done."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from langgraph.types import Command

from tests.model.leftovers import CLOSING, PATIENCE, tasks_left, wait_for_threads
from tests.model.savers import Fuse, Stopped, Storage
from tests.model.world import BASES, Flaky

T = TypeVar("T")

ANSWER = 100
"""What a branch that asks is told."""

MOST_RUNS = 40
"""More than any case needs: an item fails a few times, and a fault comes once."""


@dataclass
class Ended:
    """How one run ended.

    Attributes:
        state: The graph's state, if it came to its end or to a question.
        error: What came out, if not.
    """

    state: dict[str, Any] | None = None
    error: BaseException | None = None

    @property
    def questions(self) -> list[Any]:
        """The interrupts that wait for an answer."""
        return list((self.state or {}).get("__interrupt__", ()))


@dataclass
class Player:
    """Runs what `build` makes with a saver, in the mode of the case."""

    mode: str
    storage: Storage
    build: Callable[[Any], Any]
    config: dict[str, Any]
    durability: str
    set_cancel: Callable[[Callable[[], object] | None], None]

    def run(self, given: Any, fuse: Fuse) -> Ended:
        """Begin or resume; afterwards no thread of ours is left."""
        try:
            if self.mode in ("invoke", "stream"):
                return self._sync(given, fuse)
            return run_to_the_end(self._async(given, fuse))
        except BaseException as error:  # noqa: BLE001  it is judged, whatever it is
            return Ended(error=error)
        finally:
            wait_for_threads()

    @property
    def _options(self) -> dict[str, Any]:
        return {} if self.storage.kind is None else {"durability": self.durability}

    def _sync(self, given: Any, fuse: Fuse) -> Ended:
        with self.storage.sync(fuse) as saver:
            graph = self.build(saver)
            begun = saver is not None and graph.get_state(self.config).created_at is not None
            given = None if begun and isinstance(given, dict) else given
            if self.mode == "invoke":
                return Ended(graph.invoke(given, self.config, **self._options))
            return _ended(list(graph.stream(given, self.config, stream_mode="values", **self._options)))

    async def _async(self, given: Any, fuse: Fuse) -> Ended:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self.set_cancel(lambda: loop.call_soon_threadsafe(task.cancel))
        async with self.storage.async_(fuse) as saver:
            graph = self.build(saver)
            begun = saver is not None and (await graph.aget_state(self.config)).created_at is not None
            given = None if begun and isinstance(given, dict) else given
            try:
                if self.mode == "ainvoke":
                    return Ended(await graph.ainvoke(given, self.config, **self._options))
                states = [
                    state
                    async for state in graph.astream(
                        given, self.config, stream_mode="values", **self._options
                    )
                ]
                return _ended(states)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  it is judged, whatever it is
                return Ended(error=error)
            finally:
                self.set_cancel(None)
                await tasks_left()


def run_to_the_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, but for a `SystemExit` in a task: it ends the loop wherever it is raised, also while
    tasks are cancelled.

    `asyncio.run` gives up then, and what its tasks hold stays open, whoever wrote them.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        while tasks := asyncio.all_tasks(loop):
            for task in tasks:
                task.cancel()
            with suppress(SystemExit, KeyboardInterrupt):
                _, left = loop.run_until_complete(
                    loop.create_task(asyncio.wait(tasks, timeout=PATIENCE), name=CLOSING)
                )
                assert not left, f"cancelled, and still there: {left}"
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def _ended(states: list[dict[str, Any]]) -> Ended:
    """What `invoke` gives, of what `stream` gives."""
    questions = [question for state in states for question in state.get("__interrupt__", ())]
    return Ended({**states[-1], "__interrupt__": questions} if questions else states[-1])


def play(case: Any, world: Any, build: Callable[[Any, Any], Any], given: Any, directory: Path) -> list[Ended]:
    """Run, resume and answer, until the graph is done."""
    storage = Storage(case.saver, directory)
    config: dict[str, Any] = {"configurable": {"thread_id": "1"}} if case.saver else {}
    if case.config_bound is not None:
        config["max_concurrency"] = case.config_bound

    def set_cancel(cancel: Callable[[], object] | None) -> None:
        world.cancel = cancel

    runs: list[Ended] = []
    while len(runs) < MOST_RUNS:
        now = case if not runs else case.resumed
        player = Player(
            case.mode, storage, lambda saver, now=now: build(now, saver), config, case.durability, set_cancel
        )
        stop = case.fault if case.fault is not None and case.fault.kind == "stop" and not runs else None
        fuse = Fuse(stop.at if stop else None, once=stop is not None and stop.once, slow=case.slow)
        world.gone = False
        runs.append(player.run(given, fuse))
        world.gone = True
        error, questions = runs[-1].error, runs[-1].questions
        if questions:
            given = Command(
                resume={question.id: ANSWER for question in questions[: None if case.answers_all else 1]}
            )
        elif error is None or not case.saver or not is_resumable(error):
            return runs
        elif not isinstance(given, dict):
            given = None
    raise AssertionError(f"not done after {MOST_RUNS} runs: {runs[-1].error!r}") from runs[-1].error


def is_resumable(error: BaseException) -> bool:
    """Whether the next run may get further."""
    return isinstance(error, (Flaky, Stopped, asyncio.CancelledError, *BASES.values()))
