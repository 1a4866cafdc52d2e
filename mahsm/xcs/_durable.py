"""The durable form of a jitted function: LangGraph's functional API, with a task for each step.

The function is the body of an entrypoint, and runs anew on each resume. LangGraph knows the tasks of an
entrypoint by the order in which they are created. So a step's task is created when the step is called, in the
order of the program, and waits inside for the results that it needs. A task that had finished gives its saved
result instead of running.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint, task

from mahsm._waiting import THREAD, run_blocking, tasks
from mahsm.nodes._internal import Node, node_name
from mahsm.xcs._cells import Cell
from mahsm.xcs._derived import Arrivals
from mahsm.xcs._step_run import StepHost, StepRun

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver


Call = Callable[..., Any]


class DurableSteps:
    """Begins the steps of one run as tasks of LangGraph.

    Args:
        loop: The event loop of the graph's run, if it has one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop

    def begin(self, run: StepHost, step: StepRun, needed: Collection[Cell], label: str) -> None:
        """Create the task of a step, which waits for what the step needs.

        Coroutines that run beside each other may create their tasks in another order in the next run. So
        their tasks have a label, and are known by it too: one at the place of another is run again.
        """
        ready: Future[dict[int, Any]] = Future()
        step.gate = ready
        Arrivals(needed, step.open, lambda _, error: step.open(error=error)).start()
        body = self._blocking(step, ready) if self._loop is None else self._awaited(run, step, ready)
        body.__name__ = body.__qualname__ = f"{step.name} {label}" if label else step.name

        def create() -> None:
            made: Any = step.context.run(task(body))
            made.add_done_callback(partial(_pass_on, step))

        if self._loop is None or run.way is not THREAD:
            create()
        else:
            self._loop.call_soon_threadsafe(create)

    def _blocking(self, step: StepRun, ready: "Future[dict[int, Any]]") -> Call:
        def body() -> Any:
            step.fill(ready.result())
            return run_blocking(step.tried())

        return body

    def _awaited(self, run: StepHost, step: StepRun, ready: "Future[dict[int, Any]]") -> Call:
        async def body() -> Any:
            step.fill(await asyncio.wrap_future(ready))
            if run.way is THREAD:
                return await tasks.call_in_thread(lambda: run_blocking(step.tried()), run.pool, left=None)
            return await step.tried()

        return body


def _pass_on(step: StepRun, done: Any) -> None:
    if done.cancelled():
        step.end(None, asyncio.CancelledError())
    elif (error := done.exception()) is not None:
        step.end(None, error)
    else:
        step.end(done.result(), None)


class DurableProgram(Node):
    """A jitted function as a graph of LangGraph's functional API, and as a node. Made by `jit` and `node`.

    Its input is the argument of a function of one parameter, or a dict of the arguments of one of several.

    Args:
        name: The name of the function.
        run: Runs the function with arguments, and with what begins its steps.
        function: The function.
        is_async: True if the function is async.
        checkpointer: The checkpointer; None in a node, which inherits that of its graph.
        most: The number of steps that run at the same time.
    """

    def __init__(
        self,
        name: str,
        run: Call,
        function: Call,
        *,
        is_async: bool,
        checkpointer: "BaseCheckpointSaver[Any] | None",
        most: int,
    ) -> None:
        self._bound = _binder(function)
        self._most = most
        self._is_async = is_async
        label = node_name(name)

        def blocking(input: Any) -> Any:
            args, kwargs = self._bound(input)
            return run_blocking(run(THREAD, args, kwargs, DurableSteps(None)))

        async def awaited(input: Any) -> Any:
            args, kwargs = self._bound(input)
            steps = DurableSteps(asyncio.get_running_loop())
            if is_async:
                return await run(None, args, kwargs, steps)
            return await tasks.in_thread(lambda: run_blocking(run(THREAD, args, kwargs, steps)))

        for body in (blocking, awaited):
            body.__name__ = body.__qualname__ = label
        make: Any = entrypoint(checkpointer=checkpointer)
        self.sync_graph: Any = make(blocking)
        self.graph: Any = make(awaited)
        self.sync_graph.name = self.graph.name = label
        super().__init__(self._run_blocking, self._run_awaited, name=label, graphs=[self.graph])

    def _inner(self, config: RunnableConfig | None) -> RunnableConfig:
        # LangGraph's threads: for tasks, some of which wait, for the function, and for the stream.
        return {**(config or {}), "max_concurrency": 2 * self._most + 2}

    def _run_blocking(self, input: Any, config: RunnableConfig) -> Any:
        if self._is_async:
            return tasks.call(lambda: self.graph.ainvoke(input, self._inner(config)))
        return self.sync_graph.invoke(input, self._inner(config))

    async def _run_awaited(self, input: Any, config: RunnableConfig) -> Any:
        return await self.graph.ainvoke(input, self._inner(config))

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Stream the run as LangGraph does: by default the results of steps, as they come.

        Raises:
            TypeError: for an async function, which `astream` streams.
        """
        if self._is_async:
            raise TypeError(f"{self.name} is async; use astream.")
        yield from self.sync_graph.stream(input, self._inner(config), **kwargs)

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Async version of `stream`."""
        async for chunk in self.graph.astream(input, self._inner(config), **kwargs):
            yield chunk

    def get_state(self, config: RunnableConfig, **options: Any) -> Any:
        """Return the state of a thread, as graphs do."""
        return self.sync_graph.get_state(config, **options)

    async def aget_state(self, config: RunnableConfig, **options: Any) -> Any:
        """Async version of `get_state`."""
        return await self.graph.aget_state(config, **options)

    def get_graph(self, config: RunnableConfig | None = None, **options: Any) -> Any:
        """Return the drawing of the graph."""
        return self.graph.get_graph(config, **options)


def _binder(function: Call) -> Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return a function from the input of a graph to the arguments of a function."""
    parameters = list(inspect.signature(function).parameters.values())
    by_position = [one for one in parameters if one.kind not in (one.KEYWORD_ONLY, one.VAR_KEYWORD)]
    required = [
        one
        for one in parameters
        if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]
    if not parameters:
        return lambda input: ((), {})
    if by_position and len(required) <= 1 and not any(one.kind is one.KEYWORD_ONLY for one in required):
        return lambda input: ((input,), {})

    def bound(input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if not isinstance(input, dict):
            names = ", ".join(repr(one.name) for one in required)
            raise TypeError(f"the input is {input!r}; expected a dict of the arguments {names}.")
        return (), cast("dict[str, Any]", input)

    return bound
