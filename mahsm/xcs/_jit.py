"""`jit`: a function that runs ahead of itself."""

import contextvars
import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langgraph.types import RetryPolicy

from mahsm._common import cached, check, shown
from mahsm._waiting import TASK, THREAD, Way, run_blocking, tasks
from mahsm.edges._internal import Tries, current_item, session
from mahsm.limits import RateLimit
from mahsm.policies import Budget, Retry
from mahsm.xcs._calls import call, helpers
from mahsm.xcs._containers import forced
from mahsm.xcs._current import current
from mahsm.xcs._durable import DurableProgram, DurableSteps
from mahsm.xcs._greenlets import Body
from mahsm.xcs._numeric import compiled
from mahsm.xcs._report import Report
from mahsm.xcs._run import ProgramRun
from mahsm.xcs._source import function_of, is_users, rewritten
from mahsm.xcs._step import Step, is_async, method_of, name_of
from mahsm.xcs._step_run import Stopped

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

P = ParamSpec("P")
T = TypeVar("T")

MOST_STEPS = 1_000
"""The number of steps that run at the same time if `max_concurrency` is not given: each needs a thread."""


class JitOptions(TypedDict, total=False):
    """The keyword arguments of `jit`."""

    max_concurrency: int | None
    retry: Retry | RetryPolicy | None
    timeout: float | None
    rate_limit: RateLimit | Mapping[str, Any] | str | None
    budget: Budget | None
    rewrite: bool
    checkpointer: "BaseCheckpointSaver[Any] | None"
    backend: Literal["jax"] | None
    name: str | None


@dataclass(frozen=True)
class ProgramOptions:
    """The options of a jitted function.

    Attributes:
        max_concurrency: The number of steps that run at the same time.
        tries: How each step is tried.
        budget: The most that one call may spend.
        rewrite: True if the function is rewritten.
        name: Its name in traces and reports; None for the function's.
        checkpointer: Saves the steps of its durable form.
        backend: "jax" if `jax.jit` compiles it.
    """

    max_concurrency: int
    tries: Any  # Tries, whose types reach into DSPy
    budget: Budget | None
    rewrite: bool
    name: str | None
    checkpointer: "BaseCheckpointSaver[Any] | None"
    backend: str | None


class Jitted(Step[P, T], Generic[P, T]):
    """A function that runs ahead of itself. Made by `jit`; called like the function.

    Attributes:
        function: The function.
        last: The report of the call that ended last; None before the first.
    """

    last: Report | None

    def __init__(self, function: Callable[P, T], options: ProgramOptions) -> None:
        super().__init__(function, ordered=False)
        self._options = options
        self._name = options.name or name_of(function)
        self.last = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        self._check_not_durable()
        try:
            return run_blocking(self._run(THREAD, args, kwargs))
        except Stopped as stopped:
            error = stopped.error
        raise error

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Async version of a call; a function that is not async runs in a thread of its own."""
        if self.is_async:
            return await cast("Any", self)(*args, **kwargs)
        return await tasks.in_thread(functools.partial(cast("Any", self), *args, **kwargs))

    def _check_not_durable(self) -> None:
        if self._options.checkpointer is not None:
            raise TypeError(
                f"{self._name} has a checkpointer, which needs the id of a thread. Call "
                f'{self._name}.invoke(input, {{"configurable": {{"thread_id": "1"}}}}).'
            )

    # The durable form.

    def node(self) -> DurableProgram:
        """Return the function as a node of a graph, whose checkpointer saves each step.

        After an error, an interrupt or a kill, only unfinished steps run again; the function's own code runs
        anew, and must call the same steps for the same results.

        Example:
            >>> from langgraph.graph import START, StateGraph
            >>> from mahsm import xcs
            >>> @xcs.step
            ... def ask(question):
            ...     return question.upper()
            >>> @xcs.jit
            ... def answer(state):
            ...     return {"answer": ask(state["question"])}
            >>> builder = StateGraph(dict)
            >>> builder = builder.add_node("answer", answer.node()).add_edge(START, "answer")
            >>> builder.compile().invoke({"question": "why"})
            {'answer': 'WHY'}
        """
        return self._durable(None)

    @cached
    def graph(self) -> DurableProgram:
        """The durable form with the checkpointer of `jit`, as a graph: `invoke`, `ainvoke`, `stream`..."""
        return self._durable(self._options.checkpointer)

    def _durable(self, checkpointer: "BaseCheckpointSaver[Any] | None") -> DurableProgram:
        return DurableProgram(
            self._name,
            self._durable_run,
            self.function,
            is_async=self.is_async,
            checkpointer=checkpointer,
            most=self._options.max_concurrency,
        )

    async def _durable_run(self, way: Way | None, args: Any, kwargs: Any, steps: DurableSteps) -> Any:
        return await self._run(way or TASK, args, kwargs, steps)

    def invoke(self, input: Any, config: RunnableConfig | None = None) -> Any:
        """Run the durable form, blocking. Without a `checkpointer`, it saves nothing.

        Args:
            input: The argument of a function of one parameter, or a dict of the arguments of one of several;
                None to resume.
            config: The config of the run, with a `thread_id`.
        """
        return self.graph.invoke(input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None) -> Any:
        """Async version of `invoke`."""
        return await self.graph.ainvoke(input, config)

    def stream(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> Iterator[Any]:
        """Stream the durable form, as LangGraph streams a graph."""
        return self.graph.stream(input, config, **options)

    def astream(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> AsyncIterator[Any]:
        """Async version of `stream`."""
        return self.graph.astream(input, config, **options)

    def __repr__(self) -> str:
        return f"jit({shown(self.function)})"

    @property
    def source(self) -> str:
        """The source that runs: the function's own, rewritten.

        Raises:
            ValueError: if the function is not rewritten.
        """
        function = function_of(self.function)
        found = rewritten(function, helpers) if self._options.rewrite and function is not None else None
        if found is None:
            raise ValueError(f"{self._name} runs as it is; it has no rewritten source.")
        return found.text

    def _body(self) -> Callable[..., Any]:
        if not self._options.rewrite:
            return self.function
        function, bound = self.function, method_of(self.function)
        if bound is not None and isinstance(bound[0], FunctionType) and is_users(bound[0]):
            # A call of the method of an operator or a module would be one step.
            return functools.partial(call, *bound)
        return functools.partial(call, function)

    async def _run(
        self, way: Way, args: tuple[Any, ...], kwargs: dict[str, Any], steps: DurableSteps | None = None
    ) -> Any:
        options = self._options
        config = ensure_config({"run_name": self._name})
        body = self._body()
        outer = current_item()
        shown_state = {str(place): arg for place, arg in enumerate(args)} | kwargs
        retries = options.tries.retry is not None
        with session(
            "xcs", self._name, way, shown_state, config, budget=options.budget, retries=retries
        ) as around:
            run = ProgramRun(
                self._name,
                around,
                options.max_concurrency,
                options.tries,
                is_direct=not options.rewrite,
                durable=steps,
            )
            try:
                async with run.on_slots():
                    if outer is None:
                        return await self._called(run, body, args, kwargs)
                    with outer.running.on_stop(run.stop_from_outside):
                        return await self._called(run, body, args, kwargs)
            finally:
                run.report.end()
                self.last = run.report
                if around.span is not None:
                    around.span.note(run.facts())

    async def _called(
        self, run: ProgramRun, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        context = contextvars.copy_context()
        context.run(current.set, run)
        if run.way is THREAD:
            return context.run(_in_scope, run, body, args, kwargs)
        run.body = Body(_in_scope_async(run, body, args, kwargs), context)
        return await run.body


def _in_scope(run: ProgramRun, body: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        with run.scope():
            result = body(*args, **kwargs)
        result = forced(result)
    except BaseException as error:
        run.finish(failed=True)
        if isinstance(error, StopIteration):
            raise Stopped(error) from None
        raise
    run.finish(failed=False)
    return result


async def _in_scope_async(run: ProgramRun, body: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    try:
        with run.scope():
            result = await body(*args, **kwargs)
        result = forced(result)
    except BaseException:
        run.finish(failed=True)
        raise
    run.finish(failed=False)
    return result


class AsyncJitted(Jitted[P, T]):
    """An async function that runs ahead of itself."""

    is_async = True

    async def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]  T is what its call gives: a coroutine
        self, *args: P.args, **kwargs: P.kwargs
    ) -> Any:
        self._check_not_durable()
        return await self._run(TASK, args, kwargs)


@overload
def jit(function: Callable[P, T], /, **options: Unpack[JitOptions]) -> Jitted[P, T]: ...
@overload
def jit(**options: Unpack[JitOptions]) -> Callable[[Callable[P, T]], Jitted[P, T]]: ...
@check.arguments(
    "xcs.jit",
    cache="Decorate the function: @mahsm.cache(ttl=60) above @xcs.jit.",
    max_attempts="Pass retry=Retry(attempts=3).",
)
def jit(
    function: Any = None,
    /,
    *,
    max_concurrency: int | None = None,
    retry: Retry | RetryPolicy | None = None,
    timeout: float | None = None,
    rate_limit: RateLimit | Mapping[str, Any] | str | None = None,
    budget: Budget | None = None,
    rewrite: bool = True,
    checkpointer: "BaseCheckpointSaver[Any] | None" = None,
    backend: Literal["jax"] | None = None,
    name: str | None = None,
) -> Any:
    """Make a function run ahead of itself: calls of models run beside each other, the result stays the same.

    The function runs as Python each time, with its real arguments. Calls in it of operators, DSPy modules,
    model bindings, edges, graphs, jitted functions and functions marked by `step` are steps: they begin when
    their arguments are there, and give pending values. The function waits only where it uses a value: in an
    `if`, in a comparison, in a call of a function that is not rewritten.

    Args:
        function: The function, sync or async, that makes the calls. An operator, a DSPy module or what
            `chain` and `retry` return is one step itself, and gains nothing; jit a module's `forward`.
        max_concurrency: The number of steps that run at the same time, >= 1; by default 1,000.
        retry: How a failed step is tried again.
        timeout: Seconds for each attempt of a step.
        rate_limit: The provider's limit for steps.
        budget: The most that one call may spend.
        rewrite: False leaves the function as it is: only functions marked by `step` begin ahead, and
            f-strings wait.
        checkpointer: Saves the steps: then call it by `invoke(input, config)`, as a graph. The input is the
            argument, or a dict of several; the config has a `thread_id`.
        backend: "jax" gives a function that is numeric all through to `jax.jit`, and returns what that
            returns; no other option applies.
        name: Its name in traces and reports; by default the function's.

    Raises:
        TypeError: immediately, if `function` is not a function, or is a generator function.
        EdgeError: immediately, for an invalid option.

    Example:
        >>> from mahsm import xcs
        >>> @xcs.step
        ... def ask(question):
        ...     return question.upper()
        >>> @xcs.jit
        ... def ask_twice(question):
        ...     first, second = ask(f"{question}?"), ask(f"{question}!")
        ...     return f"{first} {second}"
        >>> ask_twice("why")
        'WHY? WHY!'
    """
    if max_concurrency is not None:
        check.whole(
            "xcs.jit", "max_concurrency", max_concurrency, "It bounds the steps that run at the same time."
        )
    check.of_type("xcs.jit", "budget", budget, Budget, "Budget(usd=1.0)")
    if backend is not None:
        check.choice("xcs.jit", "backend", backend, ["jax"])
    options = ProgramOptions(
        max_concurrency or MOST_STEPS,
        Tries.of("xcs.jit", retry, timeout, rate_limit),
        budget,
        rewrite,
        name,
        checkpointer,
        backend,
    )
    made = functools.partial(_jitted, options)
    return made if function is None else made(function)


def _jitted(options: ProgramOptions, function: Any) -> Any:
    if isinstance(function, staticmethod | classmethod):
        kind = type(cast("Any", function)).__name__
        raise TypeError(f"xcs.jit got a {kind}; write @xcs.jit below @{kind}.")
    if not callable(function) or isinstance(function, type):
        raise TypeError(f"xcs.jit got {shown(function)}; expected a function. Write @xcs.jit above a def.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"xcs.jit got the generator function {shown(function)}; expected a function that returns its "
            "value. Return a list."
        )
    if options.backend is not None:
        return compiled(function)
    return (AsyncJitted if is_async(function) else Jitted)(function, options)
