"""What of an edge is heard by those who listen to LangChain's runs: LangGraph's streams, tracers, `astream_events`.

They hear of the edge, and of each item or branch as of a node that a `Send` called: it stands below the edge, and says in
its metadata that it belongs to the edge's node. Of the tasks of the edge's own subgraph they hear nothing.
"""

import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
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

from mahsm._types import AsyncCall, State, SyncCall, Update
from mahsm.edges._items import Writer, current_item
from mahsm.nodes._outlet import EDGE, ITEM

Show: TypeAlias = Callable[[str, Any], Any]
"""From a stream mode and what LangGraph says of an edge's subgraph in it to what a user is shown; None for nothing."""

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


@contextmanager
def heard_run(name: str, config: RunnableConfig, state: State) -> Generator[HeardRun, None, None]:
    """A block that is an edge run: a run of its own, unless the node of a graph is one already."""
    if getattr(config.get("callbacks"), "parent_run_id", None) is not None:
        yield HeardRun(config)
        return
    manager = get_callback_manager_for_config(config)
    run = manager.on_chain_start(None, state, name=config.get("run_name") or name, run_id=config.get("run_id"))
    with _ending(run):
        heard = HeardRun(patch_config(config, callbacks=run.get_child()))
        yield heard
    run.on_chain_end(heard.output)


@contextmanager
def unheard(config: RunnableConfig) -> Generator[RunnableConfig, None, None]:
    """A block that runs a subgraph of whose tasks nobody hears; the subgraph's config.

    LangGraph adds who listens to the ambient config, so that is another one in the block.
    """
    silent = [_silent(one) for one in handlers_of(config) if _is_langsmith(one)]
    manager = CallbackManager(handlers=silent, inheritable_handlers=list(silent))
    own = cast("RunnableConfig", {**config, "callbacks": manager})
    token = var_child_runnable_config.set(own)
    try:
        yield own
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

    return cast("RunnableConfig", {**config, "configurable": {**own, STREAM: StreamProtocol(write, stream.modes)}})


def as_of_node(config: RunnableConfig, node: RunnableConfig, edge: str, writer: Writer | None) -> RunnableConfig:
    """The config of a task of an edge's subgraph, in which what is called looks as if the edge's node had called it.

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
    """What writes to a node's stream, as the node, wherever it is called: LangGraph's own takes the ambient namespace."""
    runtime: Runtime[Any] | None = node.get("configurable", {}).get(RUNTIME)
    if runtime is None:
        return None
    writer = runtime.stream_writer

    def write(event: Any) -> None:
        token = var_child_runnable_config.set(node)
        try:
            writer(event)
        finally:
            var_child_runnable_config.reset(token)

    return write


def is_inside_item(config: RunnableConfig) -> bool:
    """Whether what runs with this config was called by an item, with no graph between, whose node would have a namespace."""
    metadata = config.get("metadata", {})
    here = config.get("configurable", {}).get("checkpoint_ns", "")
    return EDGE in metadata and metadata.get("langgraph_checkpoint_ns") != here


class Heard:
    """A target whose calls somebody hears of.

    Args:
        name: What the run of a call is named.
        bind: Gives the two sides of the target for the config that holds here.
        makes_runs: Whether each call becomes a run; else somebody else makes runs of items.
    """

    def __init__(self, name: str, bind: Callable[[], tuple[SyncCall | None, AsyncCall | None]], *, makes_runs: bool) -> None:
        self._name = name
        self._bind = bind
        self._makes_runs = makes_runs

    def sync(self, state: State) -> Update:
        """Call the blocking side."""
        config = _of_item()
        if not self._makes_runs:
            with set_config_context(config) as context:
                return context.run(self._call_sync, state)
        run = get_callback_manager_for_config(config).on_chain_start(None, state, name=self._name)
        child = patch_config(config, callbacks=run.get_child())
        with _ending(run), set_config_context(child) as context:
            update = context.run(self._call_sync, state)
        if inspect.isawaitable(update):
            return _awaited(update, run, child)
        run.on_chain_end(update)
        return update

    async def async_(self, state: State) -> Update:
        """Call the awaitable side."""
        config = _of_item()
        if not self._makes_runs:
            with set_config_context(config) as context:
                return await _in(context, context.run(self._call_async, state))
        run = await get_async_callback_manager_for_config(config).on_chain_start(None, state, name=self._name)
        try:
            with set_config_context(patch_config(config, callbacks=run.get_child())) as context:
                update = await _in(context, context.run(self._call_async, state))
        except BaseException as error:
            await run.on_chain_error(error)
            raise
        await run.on_chain_end(update)
        return update

    def _call_sync(self, state: State) -> Any:
        sync, async_ = self._bind()
        return cast("SyncCall", sync or async_)(state)

    def _call_async(self, state: State) -> Awaitable[Update]:
        return cast("AsyncCall", self._bind()[1])(state)


def _of_item() -> RunnableConfig:
    """The config of the item that runs here."""
    config, item = var_child_runnable_config.get() or RunnableConfig(), current_item.get()
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


def _is_langsmith(handler: BaseCallbackHandler) -> bool:
    return any(base.__name__ == "LangChainTracer" for base in type(handler).__mro__)


def _silent(tracer: Any) -> BaseCallbackHandler:
    """Takes the place that LangChain would give LangSmith's tracer, where the environment switches that on; hears nothing."""
    return _silent_type(cast("type[Any]", type(tracer)))(client=tracer.client)


@cache
def _silent_type(base: Any) -> Any:
    ignored = ("agent", "chain", "chat_model", "custom_event", "llm", "retriever", "retry")
    return type("Silent", (base,), {f"ignore_{what}": True for what in ignored})
