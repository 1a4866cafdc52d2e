"""Streams of `dspy.streamify` from a graph, which calls models in many threads and for many items."""

import asyncio
import copy
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, cast

import anyio
import anyio.from_thread
import anyio.to_thread
import dspy
from dspy.streaming import StreamListener, StreamResponse

from mahsm._model_calls import calls, is_observed, observed
from mahsm.graph._trace import number_here


@dataclass
class ItemStreamResponse(StreamResponse):
    """A chunk of the output of an item's predictor.

    Attributes:
        item: The item's path of indices through nested edges, such as `(3,)`; or the number of a `Send`.
    """

    item: tuple[int, ...] = ()


class Bridge:
    """A stream of `dspy.streamify` that can be sent to from any thread and event loop.

    DSPy can send only from the loop of `streamify`, or from a worker thread of it. So blocking calls of
    models are made in such threads, and chunks of awaited calls are passed to that loop. Each item has its
    own listeners, since a listener cannot follow several answers at the same time.

    Args:
        stream: The stream.
        loop: The event loop of `streamify`.
    """

    def __init__(self, stream: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._stream = stream
        self._loop = loop
        self._waiting: deque[Any] = deque()
        self._sending = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: dict[tuple[int, ...], dict[int, Any]] = {}
        self._lock = threading.Lock()

    async def send(self, message: Any) -> None:
        """Send a message, or the messages that the item's listeners make of it."""
        item = number_here()
        messages = self._heard(message, item) if item and hasattr(message, "predict_id") else [message]
        if asyncio.get_running_loop() is self._loop:
            self._waiting += messages
            await self._flushed()
        else:
            self._loop.call_soon_threadsafe(self._hand_over, messages)

    def _hand_over(self, messages: list[Any]) -> None:
        self._waiting += messages
        task = self._loop.create_task(self._flushed_if_open())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _flushed_if_open(self) -> None:
        # The stream is closed if its consumer has stopped.
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await self._flushed()

    async def _flushed(self) -> None:
        async with self._sending:
            while self._waiting:
                await self._stream.send(self._waiting.popleft())

    async def end(self) -> None:
        """Send the remaining messages, including the last ones of items."""
        for item in sorted(self._listeners):
            for listener in self._listeners[item].values():
                self._waiting += _of_item(item, listener.finalize())
        await self._flushed()

    def _heard(self, message: Any, item: tuple[int, ...]) -> list[Any]:
        """Return the messages that the item's listeners make of a chunk.

        Without listeners it is the chunk, with the item set on it.
        """
        listeners = [
            one
            for one in cast("Any", dspy.settings.stream_listeners or [])
            if id(one.predict) == message.predict_id
        ]
        if not listeners:
            message.item = item
            return [message]
        own = self._listeners_of(item, listeners)
        return [part for one in own for part in _of_item(item, one.receive(message))]

    def _listeners_of(self, item: tuple[int, ...], listeners: list[Any]) -> list[Any]:
        with self._lock:
            known = self._listeners.setdefault(item, {})
            for listener in listeners:
                if id(listener) not in known:
                    # Tells streamify that the field has been streamed.
                    listener.stream_start = True
                    known[id(listener)] = _new_listener(listener)
            return [known[id(listener)] for listener in listeners]

    # Blocking calls of models.

    def call(self, make: Callable[[], Any]) -> Any:
        """Make a blocking call in a worker thread of the loop, unless this is one."""
        if cast("Any", dspy.settings.send_stream) is None or _running_loop() is self._loop:
            return make()
        return asyncio.run_coroutine_threadsafe(self._called(make), self._loop).result()

    async def _called(self, make: Callable[[], Any]) -> Any:
        # The call runs in a worker thread, so calls inside it need no other one.
        calls.change(blocking=None)
        return await anyio.to_thread.run_sync(make)


def _new_listener(listener: Any) -> Any:
    """Return a copy of a listener in its initial state."""
    made = copy.copy(listener)
    fresh = StreamListener(
        listener.signature_field_name, listener.predict, listener.predict_name, listener.allow_reuse
    )
    vars(made).update(vars(fresh))
    return made


@contextmanager
def streamed() -> Generator[None, None, None]:
    """Stream from a graph that runs in the block, in a worker thread of `dspy.streamify`, if that is used."""
    stream = cast("Any", dspy.settings.send_stream)
    if stream is None or isinstance(stream, Bridge):
        yield
        return
    try:
        bridge = Bridge(stream, anyio.from_thread.run_sync(asyncio.get_running_loop))
    except RuntimeError:
        # This is not a thread of streamify's; DSPy does not stream from other threads.
        yield
        return
    try:
        with _bridged(bridge):
            yield
    except Exception:
        with suppress(Exception):
            anyio.from_thread.run(bridge.end)
        raise
    anyio.from_thread.run(bridge.end)


@asynccontextmanager
async def streamed_async() -> AsyncGenerator[None, None]:
    """Async version of `streamed`; the block runs on the loop of `dspy.streamify`."""
    stream = cast("Any", dspy.settings.send_stream)
    if stream is None or isinstance(stream, Bridge):
        yield
        return
    bridge = Bridge(stream, asyncio.get_running_loop())
    try:
        with _bridged(bridge):
            yield
    except Exception:
        with suppress(Exception):
            await bridge.end()
        raise
    await bridge.end()


@contextmanager
def _bridged(bridge: Bridge) -> Generator[None, None, None]:
    with (
        calls.changed(blocking=bridge.call),
        dspy.context(send_stream=bridge),
        nullcontext() if is_observed() else observed(),
    ):
        yield


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _of_item(item: tuple[int, ...], part: StreamResponse | None) -> list[ItemStreamResponse]:
    return [] if part is None else [ItemStreamResponse(**vars(part), item=item)]
