"""What of an edge is heard by those who listen to LangChain's runs: LangGraph's streams, tracers,
`astream_events`.

They hear of the edge, and of each item or branch as of a node that a `Send` called: it stands below the edge,
and says in its metadata that it belongs to the edge's node. Of the tasks of the edge's own subgraph they hear
nothing.
"""

import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias, cast

from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import (
    get_async_callback_manager_for_config,
    get_callback_manager_for_config,
    patch_config,
    set_config_context,
    var_child_runnable_config,
)
from langchain_core.runnables.utils import coro_with_context
from langgraph.pregel.protocol import StreamProtocol
from langgraph.runtime import Runtime

from mahsm import _spans
from mahsm._common import AsyncCall, State, SyncCall, Update
from mahsm._waiting import Way, left_behind
from mahsm.edges._shared.items import Writer, current_item
from mahsm.nodes._internal import EDGE, ITEM

Show: TypeAlias = Callable[[str, Any], Any]
"""From a stream mode and what LangGraph says of an edge's subgraph in it to what a user is shown; None for
nothing."""

STREAM = "__pregel_stream"
"""Where LangGraph keeps the stream of a run in its config, for subgraphs, if these are streamed."""

RUNTIME = "__pregel_runtime"
"""Where LangGraph keeps the runtime of a node in its config."""

TASK = "__pregel_task_id"
"""Where LangGraph keeps which task of a graph it is that runs with a config."""


def handlers_of(config: RunnableConfig) -> list[BaseCallbackHandler]:
    """Who listens to what runs with this config."""
    callbacks: Any = config.get("callbacks")
    return list(getattr(callbacks, "handlers", callbacks) or ())


@dataclass
class HeardRun:
    """An edge run, for those who listen.

    Attributes:
        config: The config of what is inside.
        output: What has come out.
    """

    config: RunnableConfig
    output: Any = None


@asynccontextmanager
async def heard_run(
    way: Way, name: str, config: RunnableConfig, state: State
) -> AsyncGenerator[HeardRun, None]:
    """A block that is an edge run: a run of its own, unless the node of a graph is one already, or somebody
    traces.

    As a task, handlers that are awaited run on the loop that runs here.
    """
    if _is_run(config):
        yield HeardRun(config)
        return
    named: dict[str, Any] = {"name": config.get("run_name") or name, "run_id": config.get("run_id")}
    run: Any = await way.call(
        lambda: get_callback_manager_for_config(config).on_chain_start(None, state, **named),
        lambda: get_async_callback_manager_for_config(config).on_chain_start(None, state, **named),
    )
    heard = HeardRun(patch_config(config, callbacks=run.get_child()))
    async with _ending_async(run):
        yield heard
    await _told(run.on_chain_end(heard.output))


async def _told(answer: Awaitable[None] | None) -> None:
    """Wait for handlers that are awaited."""
    if answer is not None:
        await answer


def _is_run(config: RunnableConfig) -> bool:
    return _spans.tracer() is not None or getattr(config.get("callbacks"), "parent_run_id", None) is not None


@contextmanager
def unheard(config: RunnableConfig) -> Generator[RunnableConfig, None, None]:
    """A block that runs a subgraph of whose tasks nobody hears; the subgraph's config.

    LangGraph adds who listens to the ambient config, so that has nobody in the block.
    """
    silent = _Listeners(_silent(one) for one in handlers_of(config) if _is_langsmith(one))
    manager = CallbackManager(handlers=silent, inheritable_handlers=silent.copy())
    token = var_child_runnable_config.set({**config, "callbacks": None})
    try:
        yield {**config, "callbacks": manager}
    finally:
        var_child_runnable_config.reset(token)


def translated(config: RunnableConfig, show: Show) -> RunnableConfig:
    """The config of a subgraph whose stream goes through `show`; that of what it calls does not."""
    own: dict[str, Any] = config.get("configurable", {})
    stream = own.get(STREAM)
    if stream is None:
        return config
    namespace = tuple(own.get("checkpoint_ns", "").split("|"))

    def write(chunk: Any) -> None:
        if chunk[0] != namespace:
            stream(chunk)
        elif (payload := show(chunk[1], chunk[2])) is not None:
            stream((*chunk[:2], payload, *chunk[3:]))

    return cast(
        "RunnableConfig", {**config, "configurable": {**own, STREAM: StreamProtocol(write, stream.modes)}}
    )


def is_seen_inside(config: RunnableConfig) -> bool:
    """Whether somebody streams subgraphs, or LangSmith's tracer is there, and the tasks of an edge's own
    subgraph are seen.
    """
    return STREAM in config.get("configurable", {}) or any(map(_is_langsmith, handlers_of(config)))


def as_of_task(config: RunnableConfig, task: str) -> RunnableConfig:
    """The config of what a node calls, as if a task of a subgraph in it did: with a namespace of its own."""
    own: dict[str, Any] = config.get("configurable", {})
    namespace = f"{own.get('checkpoint_ns', '')}|{task}"
    return cast("RunnableConfig", {**config, "configurable": {**own, "checkpoint_ns": namespace}})


def as_of_node(
    config: RunnableConfig, node: RunnableConfig, edge: str, writer: Writer | None
) -> RunnableConfig:
    """The config of a task of an edge's subgraph, in which what is called looks as if the edge's node had
    called it.

    Args:
        config: The task's own.
        node: That of the edge's node.
        edge: The edge's name.
        writer: The stream of the edge's node, if there is one.
    """
    own: dict[str, Any] = config.get("configurable", {})
    if RUNTIME in own and writer is not None:
        own = {**own, RUNTIME: own[RUNTIME].override(stream_writer=writer)}
    metadata = {**node.get("metadata", {}), EDGE: edge}
    seen = {"callbacks": node.get("callbacks"), "tags": node.get("tags", [])}
    return cast("RunnableConfig", {**config, **seen, "metadata": metadata, "configurable": own})


def writer_of(node: RunnableConfig) -> Writer | None:
    """What writes to a node's stream, as the node, wherever it is called: LangGraph's own takes the ambient
    namespace.

    What is written in a graph that an item runs has that graph's namespace, as under a `Send`.
    """
    runtime: Runtime[Any] | None = node.get("configurable", {}).get(RUNTIME)
    if runtime is None:
        return None
    writer, depth = runtime.stream_writer, _depth_of(node)

    def write(event: Any) -> None:
        if _depth_of(var_child_runnable_config.get() or {}) > depth + 1:  # than that of a task of the edge
            writer(event)
            return
        token = var_child_runnable_config.set(node)
        try:
            writer(event)
        finally:
            var_child_runnable_config.reset(token)

    return write


def _depth_of(config: RunnableConfig) -> int:
    """How many graphs there are around what runs with this config."""
    return config.get("configurable", {}).get("checkpoint_ns", "").count("|")


def is_inside_item(config: RunnableConfig) -> bool:
    """Whether what runs with this config was called by an item, with no graph between, whose node would have
    a namespace.
    """
    metadata = config.get("metadata", {})
    here = config.get("configurable", {}).get("checkpoint_ns", "")
    return EDGE in metadata and metadata.get("langgraph_checkpoint_ns") != here


class Heard:
    """A target whose calls somebody hears of.

    Args:
        name: What the run of a call is named.
        bind: Gives the two sides of the target for the config that holds here.
        makes_runs: Whether each call becomes a run; else somebody else makes runs of items, and only who
            streams messages hears of what each gives.
    """

    def __init__(
        self, name: str, bind: Callable[[], tuple[SyncCall | None, AsyncCall | None]], *, makes_runs: bool
    ) -> None:
        self._name = name
        self._bind = bind
        self._makes_runs = makes_runs

    def sync(self, state: State) -> Update:
        """Call the blocking side; the run of a call that is left behind ends then."""
        config = _of_item()
        run = _EndsOnce(
            get_callback_manager_for_config(self._listeners(config)).on_chain_start(
                None, state, name=self._name
            )
        )
        child = self._inside(run, config)
        with left_behind.on_stop(run.on_chain_error), _ending(run), set_config_context(child) as context:
            update = context.run(self._call_sync, state)
        if inspect.isawaitable(update):
            return _awaited(update, run, child)
        run.on_chain_end(update)
        return update

    async def async_(self, state: State) -> Update:
        """Call the awaitable side."""
        config = _of_item()
        manager = get_async_callback_manager_for_config(self._listeners(config))
        run = await manager.on_chain_start(None, state, name=self._name)
        async with _ending_async(run):
            with set_config_context(self._inside(run, config)) as context:
                update = await _in(context, context.run(self._call_async, state))
        await run.on_chain_end(update)
        return update

    def _listeners(self, config: RunnableConfig) -> RunnableConfig:
        """The config with those who hear of a call: of those that the node has, since LangGraph asks for no
        others.
        """
        manager = cast("CallbackManager", config.get("callbacks")).copy()
        hears = None if self._makes_runs else streams_messages
        manager.handlers = _Listeners(one for one in manager.handlers if hears is None or hears(one))
        manager.inheritable_handlers = _Listeners(manager.inheritable_handlers)
        return {**config, "callbacks": manager}

    def _inside(self, run: Any, config: RunnableConfig) -> RunnableConfig:
        """The config of what is called."""
        return patch_config(config, callbacks=run.get_child()) if self._makes_runs else config

    def _call_sync(self, state: State) -> Any:
        sync, async_ = self._bind()
        return cast("SyncCall", sync or async_)(state)

    def _call_async(self, state: State) -> Awaitable[Update]:
        return cast("AsyncCall", self._bind()[1])(state)


def _of_item() -> RunnableConfig:
    """The config of the item that runs here."""
    config, item = var_child_runnable_config.get() or RunnableConfig(), current_item()
    return {**config, "metadata": {**config.get("metadata", {}), ITEM: item.order if item else ()}}


async def _awaited(update: Awaitable[Update], run: Any, config: RunnableConfig) -> Update:
    with _ending(run), set_config_context(config) as context:
        value = await _in(context, update)
    run.on_chain_end(value)
    return value


def _in(context: Context, awaitable: Awaitable[Any]) -> Awaitable[Any]:
    return coro_with_context(cast("Any", awaitable), context) if inspect.iscoroutine(awaitable) else awaitable


@contextmanager
def _ending(run: Any) -> Generator[None, None, None]:
    """A block that is a run: who listens hears of its error."""
    try:
        yield
    except BaseException as error:
        run.on_chain_error(error)
        raise


@asynccontextmanager
async def _ending_async(run: Any) -> AsyncGenerator[None, None]:
    """The same, of a run whose handlers may be awaited."""
    try:
        yield
    except BaseException as error:
        await _told(run.on_chain_error(error))
        raise


class _EndsOnce:
    """A run that ends once: as its call does, or before, when nobody waits for that any more."""

    def __init__(self, run: Any) -> None:
        self._run = run
        self._end = threading.Lock()  # is taken once, and kept

    def get_child(self) -> CallbackManager:
        return self._run.get_child()

    def on_chain_end(self, output: Any) -> None:
        if self._end.acquire(blocking=False):
            self._run.on_chain_end(output)

    def on_chain_error(self, error: BaseException) -> None:
        if self._end.acquire(blocking=False):
            self._run.on_chain_error(error)


class _Listeners(list[BaseCallbackHandler]):
    """The handlers of a manager to which none are added: LangChain adds those of the context, as of
    `collect_runs`.
    """

    def append(self, handler: BaseCallbackHandler, /) -> None:
        """Leave it out."""

    def copy(self) -> "_Listeners":
        return _Listeners(self)

    def __bool__(self) -> bool:  # else a manager makes a list of its own in place of an empty one
        return True


def streams_messages(handler: BaseCallbackHandler) -> bool:
    """Whether it is LangGraph's, which hears what `stream_mode="messages"` gives."""
    return any(base.__name__ == "StreamMessagesHandler" for base in type(handler).__mro__)


def _is_langsmith(handler: BaseCallbackHandler) -> bool:
    return any(base.__name__ == "LangChainTracer" for base in type(handler).__mro__)


def _silent(tracer: Any) -> BaseCallbackHandler:
    """Takes the place that LangChain would give LangSmith's tracer, where the environment switches that on;
    hears nothing.
    """
    return _silent_type(cast("type[Any]", type(tracer)))(client=tracer.client)


@cache
def _silent_type(base: Any) -> Any:
    ignored = ("agent", "chain", "chat_model", "custom_event", "llm", "retriever", "retry")
    return type("Silent", (base,), {f"ignore_{what}": True for what in ignored})
