"""Switching traces on and off, and spans of your own."""

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config

from mahsm import _spans
from mahsm._common import shown
from mahsm._model_calls import calls, observed
from mahsm.tracing._backends import Backend, Recorded, Start, running
from mahsm.tracing._langfuse import LangfuseBackend, handler_for
from mahsm.tracing._otel import OtelBackend
from mahsm.tracing._tracer import BackendTracer

if TYPE_CHECKING:
    from langfuse import Langfuse
    from langfuse.langchain import CallbackHandler

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

QUEUE = "65536"
"""Size of the queue of unsent spans; OpenTelemetry's default, 2,048, drops spans of a large fan-out."""


def init(
    public_key: str | None = None,
    secret_key: str | None = None,
    host: str | None = None,
    *,
    scores: bool = False,
    **options: Any,
) -> "CallbackHandler | None":
    """Trace to Langfuse from now on.

    Args:
        public_key: Langfuse's public key; by default `LANGFUSE_PUBLIC_KEY`.
        secret_key: Its secret key; by default `LANGFUSE_SECRET_KEY`.
        host: Its address; by default `LANGFUSE_BASE_URL` or `LANGFUSE_HOST`, or Langfuse's cloud.
        scores: Also send the error rate and cost of each edge run, and the scores of judges, as Langfuse
            scores, which dashboards can chart.
        **options: Further options of `langfuse.Langfuse`: `environment`, `release`, `mask`, `sample_rate`...

    Returns:
        Langfuse's handler for LangChain and LangGraph, to pass as `config={"callbacks": [handler]}`. None if
        credentials are missing: nothing is traced then, and a warning names them.

    Example:
        >>> from mahsm import tracing
        >>> handler = tracing.init("pk-example", "sk-example", "http://127.0.0.1:9", tracing_enabled=False)
        >>> type(handler).__name__
        'LangchainCallbackHandler'
        >>> tracing.off()
    """
    public_key = public_key or os.environ.get("LANGFUSE_PUBLIC_KEY")
    secret_key = secret_key or os.environ.get("LANGFUSE_SECRET_KEY")
    missing = [name for name, key in {"public": public_key, "secret": secret_key}.items() if not key]
    if missing:
        _say(
            f"mahsm.tracing: nothing is traced, since Langfuse's {' and '.join(missing)} key is missing. Set "
            f"{' and '.join(f'LANGFUSE_{name.upper()}_KEY' for name in missing)}, or pass {missing[0]}_key=."
        )
        return None
    # The client reads it when it is created.
    os.environ.setdefault("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE)
    from langfuse import Langfuse

    given = {} if host is None else {"base_url": host}
    use(Langfuse(public_key=public_key, secret_key=secret_key, **given, **options), scores=scores)
    return handler()


@functools.cache
def _say(message: str) -> None:
    """Warn, once in a process."""
    warnings.warn(message, stacklevel=3)


def use(client: "Langfuse", *, scores: bool = False) -> None:
    """Trace to an existing Langfuse client from now on.

    Args:
        client: The client.
        scores: As for `init`.

    Raises:
        TypeError: for anything else.

    Example:
        >>> from langfuse import Langfuse
        >>> from mahsm import tracing
        >>> server = "http://127.0.0.1:9"
        >>> client = Langfuse(public_key="pk-mine", secret_key="sk", base_url=server, tracing_enabled=False)
        >>> tracing.use(client)
        >>> tracing.off()
    """
    if not hasattr(client, "start_observation"):
        raise TypeError(f"tracing.use got {shown(client)}; expected a langfuse.Langfuse client.")
    _spans.trace_with(BackendTracer(LangfuseBackend(client), scores=scores))


def use_otel(tracer_provider: Any, *, scores: bool = False) -> None:
    """Trace to an OpenTelemetry backend from now on; model calls follow its conventions for generative AI.

    Args:
        tracer_provider: A `TracerProvider` of OpenTelemetry's SDK.
        scores: As for `init`; here, scores are attributes such as `mahsm.score.error_rate`.

    Raises:
        TypeError: for anything else.

    Example:
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> from mahsm import tracing
        >>> tracing.use_otel(TracerProvider())
        >>> tracing.off()
    """
    if not hasattr(tracer_provider, "get_tracer"):
        raise TypeError(
            f"tracing.use_otel got {shown(tracer_provider)}; expected an OpenTelemetry TracerProvider."
        )
    _spans.trace_with(BackendTracer(OtelBackend(tracer_provider), scores=scores))


def handler() -> "CallbackHandler":
    """Return Langfuse's handler for LangChain and LangGraph, for the client in use, as `init` does.

    Its spans describe errors like those of edges, and it cuts states of graphs that are larger than about
    100,000 characters.

    Raises:
        RuntimeError: if traces do not go to Langfuse.

    Example:
        >>> from langfuse import Langfuse
        >>> from mahsm import tracing
        >>> server = "http://127.0.0.1:9"
        >>> client = Langfuse(public_key="pk-own", secret_key="sk", base_url=server, tracing_enabled=False)
        >>> tracing.use(client)
        >>> config = {"callbacks": [tracing.handler()]}
        >>> tracing.off()
    """
    return handler_for(client_for("tracing.handler"))


def off() -> None:
    """Stop tracing."""
    _spans.trace_with(None)


def flush() -> None:
    """Send all pending spans, and wait until they are sent."""
    if (backend := _backend()) is not None:
        backend.flush()


def _backend() -> Backend | None:
    tracer = _spans.tracer()
    return tracer.backend if isinstance(tracer, BackendTracer) else None


def tracer_for(asks: str) -> BackendTracer:
    """Return the tracer in use, whose spans go to Langfuse.

    Raises:
        RuntimeError: if they do not.
    """
    tracer = _spans.tracer()
    if not isinstance(tracer, BackendTracer) or not isinstance(tracer.backend, LangfuseBackend):
        raise RuntimeError(f"{asks} needs Langfuse: call tracing.init() or tracing.use(client) first.")
    return tracer


def client_for(asks: str) -> Any:
    """Return the Langfuse client in use.

    Raises:
        RuntimeError: if traces do not go to Langfuse.
    """
    return cast("LangfuseBackend", tracer_for(asks).backend).client


def _config() -> RunnableConfig:
    """Return the config of the node that runs here, or an empty one."""
    try:
        return get_config()
    except RuntimeError:
        return {}


class Span:
    """A span of your own."""

    def __init__(self, recorded: Recorded | None) -> None:
        self._recorded = recorded

    def note(self, **facts: Any) -> None:
        """Add facts to its metadata: numbers, strings, booleans."""
        if self._recorded is not None:
            self._recorded.note(facts)

    def show(self, output: Any) -> None:
        """Set its output."""
        if self._recorded is not None:
            self._recorded.show(output)


@contextmanager
def span(name: str, *, input: Any = None, as_type: str = "span") -> Generator[Span, None, None]:
    """Trace a block as a step of your own. No-op if nothing is traced.

    Args:
        name: Its name; dashboards group by it, so it should not contain ids.
        input: Its input, which is cut for traces.
        as_type: One of Langfuse's observation types.

    Example:
        >>> from mahsm import tracing
        >>> with tracing.span("rank") as step:
        ...     step.note(candidates=3)
    """
    tracer = _spans.tracer()
    if not isinstance(tracer, BackendTracer):
        yield Span(None)
        return
    with tracer.node(_config()):
        recorded = tracer.begin(Start(name, as_type, input))
        # `observed` lets threads of `dspy.Parallel` find the current span.
        with running(recorded), observed():
            yield Span(recorded)


@overload
def observe(
    function: FunctionT,
    /,
    *,
    name: str | None = None,
    as_type: str = "span",
    capture_input: bool = True,
    capture_output: bool = True,
) -> FunctionT: ...
@overload
def observe(
    *, name: str | None = None, as_type: str = "span", capture_input: bool = True, capture_output: bool = True
) -> Callable[[FunctionT], FunctionT]: ...
def observe(
    function: Any = None,
    /,
    *,
    name: str | None = None,
    as_type: str = "span",
    capture_input: bool = True,
    capture_output: bool = True,
) -> Any:
    """Trace each call of a sync or async function as a step: `@observe`, or `@observe(name="rank")`.

    Args:
        function: The function.
        name: The step's name; by default the function's.
        as_type: One of Langfuse's observation types.
        capture_input: Show the arguments in the trace.
        capture_output: Show the result in the trace.

    Raises:
        TypeError: if the argument is not a function, such as a name without `name=`.

    Example:
        >>> from mahsm import tracing
        >>> @tracing.observe(name="ranking")
        ... def rank(values):
        ...     return sorted(values)
        >>> rank([2, 1])
        [1, 2]
    """
    if function is None:
        return functools.partial(
            observe, name=name, as_type=as_type, capture_input=capture_input, capture_output=capture_output
        )
    if not callable(function):
        raise TypeError(
            f"tracing.observe got {shown(function)}; expected a function. A name is passed as name=."
        )
    call: Callable[..., Any] = function
    named = name or getattr(call, "__name__", type(call).__name__)

    def step(args: Any, kwargs: Any) -> AbstractContextManager[Span]:
        return span(named, input={"args": args, "kwargs": kwargs} if capture_input else None, as_type=as_type)

    def shown_by(own: Span, value: Any) -> Any:
        if capture_output:
            own.show(value)
        return value

    @functools.wraps(function)
    def observed(*args: Any, **kwargs: Any) -> Any:
        with step(args, kwargs) as own:
            return shown_by(own, call(*args, **kwargs))

    @functools.wraps(function)
    async def observed_async(*args: Any, **kwargs: Any) -> Any:
        with step(args, kwargs) as own:
            return shown_by(own, await call(*args, **kwargs))

    return observed_async if inspect.iscoroutinefunction(call) else observed


def experiment(
    graph: Any, data: Any, evaluators: Sequence[Any] = (), *, name: str | None = None, **options: Any
) -> Any:
    """Run a graph as the task of a Langfuse experiment: once per item, with a trace and scores.

    Args:
        graph: A compiled graph, an edge or another Runnable; its input is the item's `input`.
        data: A list of `{"input": ..., "expected_output": ...}`, or the items of a Langfuse dataset.
        evaluators: Langfuse evaluators: functions of `input`, `output`, `expected_output` that return an
            `Evaluation`.
        name: The experiment's name; by default the graph's.
        **options: Further options of `Langfuse.run_experiment`: `run_name`, `run_evaluators`,
            `max_concurrency`...

    Returns:
        Langfuse's `ExperimentResult`.

    Raises:
        RuntimeError: if traces do not go to Langfuse.

    Example:
        >>> from langfuse import Evaluation, Langfuse
        >>> from mahsm import tracing, vmap
        >>> server = "http://127.0.0.1:9"
        >>> client = Langfuse(public_key="pk-exp", secret_key="sk", base_url=server, tracing_enabled=False)
        >>> tracing.use(client)
        >>> edge = vmap(lambda state: state["item"] * 2, batch_key="xs", out_key="ys")
        >>> def right(*, input, output, expected_output, **_):
        ...     return Evaluation(name="right", value=output["ys"] == expected_output)
        >>> result = tracing.experiment(edge, [{"input": {"xs": [1, 2]}, "expected_output": [2, 4]}], [right])
        >>> result.item_results[0].evaluations[0].value
        True
        >>> tracing.off()
    """
    client = client_for("tracing.experiment")
    callbacks = [handler_for(client)]

    async def task(*, item: Any, **_: Any) -> Any:
        given: Any = cast("Any", item)["input"] if isinstance(item, Mapping) else item.input
        return await graph.ainvoke(given, {"callbacks": callbacks})

    return client.run_experiment(
        name=name or graph.get_name(), data=data, task=task, evaluators=list(evaluators), **options
    )


def prompt(prompt: Any) -> AbstractContextManager[None]:
    """Return a block whose DSPy model calls are linked to a Langfuse prompt, in the trace and in the prompt's
    statistics.

    Args:
        prompt: The result of `Langfuse.get_prompt`. A fallback prompt is not linked.

    Raises:
        TypeError: for anything else.

    Example:
        >>> from langfuse.api import Prompt_Text
        >>> from langfuse.model import TextPromptClient
        >>> from mahsm import tracing
        >>> fields = {"config": {}, "labels": [], "tags": [], "type": "text"}
        >>> found = TextPromptClient(
        ...     Prompt_Text(name="answer", version=3, prompt="Answer briefly.", **fields)
        ... )
        >>> with tracing.prompt(found):
        ...     pass  # edges, nodes and modules whose instructions are `found.compile()`
    """
    if not _spans.is_prompt(prompt):
        raise TypeError(
            f"tracing.prompt got {shown(prompt)}; expected the result of Langfuse's "
            "`client.get_prompt(name)`."
        )
    return calls.changed(prompt=prompt)


def attributes(
    *,
    session_id: str | None = None,
    user_id: str | None = None,
    tags: Sequence[str] | None = None,
    environment: str | None = None,
    trace_name: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> AbstractContextManager[Any]:
    """Return a block whose spans have these attributes in Langfuse; no-op if traces do not go to Langfuse.

    Example:
        >>> from mahsm import tracing
        >>> with tracing.attributes(session_id="chat-1", tags=["nightly"]):
        ...     pass
    """
    backend = _backend()
    if backend is None:
        return nullcontext()
    given: dict[str, Any] = {
        "session_id": session_id,
        "user_id": user_id,
        "tags": None if tags is None else list(tags),
        "environment": environment,
        "trace_name": trace_name,
        "metadata": None if metadata is None else dict(metadata),
    }
    return backend.attributes({name: value for name, value in given.items() if value is not None})
