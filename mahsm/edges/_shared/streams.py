"""Runs of an edge and its items in LangChain's callbacks: in streams, tracers and `astream_events`.

Callback handlers see a run for the edge, and below it one for each item or branch, like a node that a `Send`
called; its metadata says that it belongs to the edge's node. They do not see the tasks of the edge's own
subgraph.
"""

import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from contextvars import Context, copy_context
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
"""Maps a stream mode and a chunk of an edge's subgraph to the chunk that users see; None for no chunk."""

STREAM = "__pregel_stream"
"""LangGraph's config key for the stream of a run, which subgraphs use if they are streamed."""

RUNTIME = "__pregel_runtime"
"""LangGraph's config key for the runtime of a node."""

TASK = "__pregel_task_id"
"""LangGraph's config key for the id of the task that runs with a config."""


def handlers_of(config: RunnableConfig) -> list[BaseCallbackHandler]:
    """Return the callback handlers of runs with this config."""
    callbacks: Any = config.get("callbacks")
    return list(getattr(callbacks, "handlers", callbacks) or ())


@dataclass
class HeardRun:
    """An edge run in callbacks.

    Attributes:
        config: The config for calls inside.
        output: The output that handlers are told, once it is known.
    """

    config: RunnableConfig
    output: Any = None


def heard_run(
    way: Way, name: str, config: RunnableConfig, state: State
) -> AbstractAsyncContextManager[HeardRun]:
    """Return a block that is an edge run in callbacks.

    It adds no run if the edge's node is one already, or if the run is traced. In a task, async handlers run
    on the running event loop.
    """
    return nullcontext(HeardRun(config)) if _is_run(config) else _new_run(way, name, config, state)


@asynccontextmanager
async def _new_run(
    way: Way, name: str, config: RunnableConfig, state: State
) -> AsyncGenerator[HeardRun, None]:
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
    """Wait for async handlers."""
    if answer is not None:
        await answer


def _is_run(config: RunnableConfig) -> bool:
    return _spans.tracer() is not None or getattr(config.get("callbacks"), "parent_run_id", None) is not None


@contextmanager
def unheard(config: RunnableConfig) -> Generator[RunnableConfig, None, None]:
    """Return a block that runs a subgraph whose tasks are hidden from handlers; it yields the config.

    LangGraph adds the handlers of the ambient config, so in the block that has none.
    """
    silent = _Listeners(_silent(one) for one in handlers_of(config) if _is_langsmith(one))
    manager = CallbackManager(handlers=silent, inheritable_handlers=silent.copy())
    token = var_child_runnable_config.set({**config, "callbacks": None})
    try:
        yield {**config, "callbacks": manager}
    finally:
        var_child_runnable_config.reset(token)


def translated(config: RunnableConfig, show: Show) -> RunnableConfig:
    """Return the config of a subgraph whose stream goes through `show`; streams of graphs inside do not."""
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
    """Return whether a stream of subgraphs or LangSmith's tracer shows the tasks of an edge's subgraph."""
    return STREAM in config.get("configurable", {}) or any(map(_is_langsmith, handlers_of(config)))


def in_config(config: RunnableConfig) -> Context:
    """Return a copy of this context for calls with a config.

    It is what `set_config_context` yields. The context is left to the calls in it, so nothing has to be set
    back at their end; LangSmith's own context is only set if one of its tracers is there.
    """
    if any(map(_is_langsmith, handlers_of(config))):
        with set_config_context(config) as context:
            return context.copy()
    context = copy_context()
    context.run(var_child_runnable_config.set, config)
    return context


def as_of_task(config: RunnableConfig, task: str) -> RunnableConfig:
    """Return the config for calls of a node as if a task of a subgraph made them, with its own namespace."""
    own: dict[str, Any] = config.get("configurable", {})
    namespace = f"{own.get('checkpoint_ns', '')}|{task}"
    return cast("RunnableConfig", {**config, "configurable": {**own, "checkpoint_ns": namespace}})


def as_of_node(
    config: RunnableConfig, node: RunnableConfig, edge: str, writer: Writer | None
) -> RunnableConfig:
    """Return the config of a subgraph's task, changed so that its calls look like calls of the edge's node.

    Args:
        config: The config of the task.
        node: The config of the edge's node.
        edge: The edge's name.
        writer: The stream of the edge's node, if any.
    """
    own: dict[str, Any] = config.get("configurable", {})
    if RUNTIME in own and writer is not None:
        own = {**own, RUNTIME: own[RUNTIME].override(stream_writer=writer)}
    metadata = {**node.get("metadata", {}), EDGE: edge}
    seen = {"callbacks": node.get("callbacks"), "tags": node.get("tags", [])}
    return cast("RunnableConfig", {**config, **seen, "metadata": metadata, "configurable": own})


def writer_of(node: RunnableConfig) -> Writer | None:
    """Return a function that writes to a node's stream as the node, wherever it is called.

    LangGraph's own writer uses the namespace of the ambient config, which in an item is that of a task of the
    subgraph. Events of a graph that an item runs keep that graph's namespace, as under a `Send`.
    """
    runtime: Runtime[Any] | None = node.get("configurable", {}).get(RUNTIME)
    if runtime is None:
        return None
    writer, depth = runtime.stream_writer, _depth_of(node)

    def write(event: Any) -> None:
        # A task of the edge is one level deeper than the node; anything below is in a graph of an item.
        if _depth_of(var_child_runnable_config.get() or {}) > depth + 1:
            writer(event)
            return
        token = var_child_runnable_config.set(node)
        try:
            writer(event)
        finally:
            var_child_runnable_config.reset(token)

    return write


def _depth_of(config: RunnableConfig) -> int:
    """Return the number of graphs around a run with this config."""
    return config.get("configurable", {}).get("checkpoint_ns", "").count("|")


def is_inside_item(config: RunnableConfig) -> bool:
    """Return whether an item made the call that has this config, without a graph in between.

    A node of such a graph would have a namespace of its own.
    """
    metadata = config.get("metadata", {})
    here = config.get("configurable", {}).get("checkpoint_ns", "")
    return EDGE in metadata and metadata.get("langgraph_checkpoint_ns") != here


class Heard:
    """A target whose calls callback handlers are told of.

    Args:
        name: The name of the run of a call.
        bind: Returns the two sides of the target for the ambient config.
        makes_runs: Make a run of each call. Otherwise the tracer makes the runs of items, and only handlers
            that stream messages are told of the results.
    """

    def __init__(
        self, name: str, bind: Callable[[], tuple[SyncCall | None, AsyncCall | None]], *, makes_runs: bool
    ) -> None:
        self._name = name
        self._bind = bind
        self._makes_runs = makes_runs

    def sync(self, state: State) -> Update:
        """Call the sync side; if the call is left behind, its run ends then."""
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
        """Call the async side."""
        config = _of_item()
        manager = get_async_callback_manager_for_config(self._listeners(config))
        run = await manager.on_chain_start(None, state, name=self._name)
        async with _ending_async(run):
            with set_config_context(self._inside(run, config)) as context:
                update = await _in(context, context.run(self._call_async, state))
        await run.on_chain_end(update)
        return update

    def _listeners(self, config: RunnableConfig) -> RunnableConfig:
        """Return the config with the handlers that are told of a call: only some of the node's own."""
        manager = cast("CallbackManager", config.get("callbacks")).copy()
        hears = None if self._makes_runs else streams_messages
        manager.handlers = _Listeners(one for one in manager.handlers if hears is None or hears(one))
        manager.inheritable_handlers = _Listeners(manager.inheritable_handlers)
        return {**config, "callbacks": manager}

    def _inside(self, run: Any, config: RunnableConfig) -> RunnableConfig:
        """Return the config for the call."""
        return patch_config(config, callbacks=run.get_child()) if self._makes_runs else config

    def _call_sync(self, state: State) -> Any:
        sync, async_ = self._bind()
        return cast("SyncCall", sync or async_)(state)

    def _call_async(self, state: State) -> Awaitable[Update]:
        return cast("AsyncCall", self._bind()[1])(state)


def _of_item() -> RunnableConfig:
    """Return the config of the item that runs here."""
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
    """Return a block that is a run; handlers are told of its error."""
    try:
        yield
    except BaseException as error:
        run.on_chain_error(error)
        raise


@asynccontextmanager
async def _ending_async(run: Any) -> AsyncGenerator[None, None]:
    """Async version of `_ending`, for a run whose handlers may be async."""
    try:
        yield
    except BaseException as error:
        await _told(run.on_chain_error(error))
        raise


class _EndsOnce:
    """A run that ends once: with its call, or earlier if that is left behind."""

    def __init__(self, run: Any) -> None:
        self._run = run
        # The first end takes this lock, and never releases it.
        self._end = threading.Lock()

    def get_child(self) -> CallbackManager:
        return self._run.get_child()

    def on_chain_end(self, output: Any) -> None:
        if self._end.acquire(blocking=False):
            self._run.on_chain_end(output)

    def on_chain_error(self, error: BaseException) -> None:
        if self._end.acquire(blocking=False):
            self._run.on_chain_error(error)


class _Listeners(list[BaseCallbackHandler]):
    """A fixed list of handlers: LangChain cannot add those of the context, such as of `collect_runs`."""

    def append(self, handler: BaseCallbackHandler, /) -> None:
        """Leave the handler out."""

    def copy(self) -> "_Listeners":
        return _Listeners(self)

    def __bool__(self) -> bool:
        # True even if it is empty, since a manager replaces a false value by a new list.
        return True


def streams_messages(handler: BaseCallbackHandler) -> bool:
    """Return whether this is LangGraph's handler for `stream_mode="messages"`."""
    return any(base.__name__ == "StreamMessagesHandler" for base in type(handler).__mro__)


def hears_only_models(handler: BaseCallbackHandler) -> bool:
    """Return whether this is a handler of ours that counts calls of models, or lets them wait."""
    return getattr(handler, "hears_only_models", False)


def _is_langsmith(handler: BaseCallbackHandler) -> bool:
    return any(base.__name__ == "LangChainTracer" for base in type(handler).__mro__)


def _silent(tracer: Any) -> BaseCallbackHandler:
    """Return a tracer of the same class that ignores all events.

    LangChain adds LangSmith's tracer, where the environment switches it on, unless there is one already.
    """
    return _silent_type(cast("type[Any]", type(tracer)))(client=tracer.client)


@cache
def _silent_type(base: Any) -> Any:
    ignored = ("agent", "chain", "chat_model", "custom_event", "llm", "retriever", "retry")
    return type("Silent", (base,), {f"ignore_{what}": True for what in ignored})
