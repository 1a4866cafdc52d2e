"""What `dspy.streamify` hears of a graph, in which models are called in many threads and for many items at
the same time.
"""

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
    """A part of what an item's predictor says.

    Attributes:
        item: The item's path of indices through nested edges, such as `(3,)`; or the number of a `Send`.
    """

    item: tuple[int, ...] = ()


class Bridge:
    """A stream of `dspy.streamify`, into which any thread and event loop may send.

    DSPy sends from the loop of `streamify`, or from a worker thread of it. So blocking calls of models are
    made in such threads, and what awaited ones send is handed over to that loop. Items have listeners of
    their own, since the parts that they get at the same time would make no sense to one.

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
        """Send a message, as it is or as listeners of items make it."""
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
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):  # nobody listens any more
            await self._flushed()

    async def _flushed(self) -> None:
        async with self._sending:
            while self._waiting:
                await self._stream.send(self._waiting.popleft())

    async def end(self) -> None:
        """Send what is left, the ends of items too."""
        for item in sorted(self._listeners):
            for listener in self._listeners[item].values():
                self._waiting += _of_item(item, listener.finalize())
        await self._flushed()

    def _heard(self, message: Any, item: tuple[int, ...]) -> list[Any]:
        """What the item's listeners make of a part; without listeners the part, which says of which item it
        is.
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
                    listener.stream_start = True  # so that streamify knows that something has been streamed
                    known[id(listener)] = _new_listener(listener)
            return [known[id(listener)] for listener in listeners]

    # Blocking calls of models.

    def call(self, make: Callable[[], Any]) -> Any:
        """Make a blocking call in a worker thread of the loop, unless this is one."""
        if cast("Any", dspy.settings.send_stream) is None or _running_loop() is self._loop:
            return make()
        return asyncio.run_coroutine_threadsafe(self._called(make), self._loop).result()

    async def _called(self, make: Callable[[], Any]) -> Any:
        calls.change(blocking=None)  # the thread is a worker
        return await anyio.to_thread.run_sync(make)


def _new_listener(listener: Any) -> Any:
    """The same, that has heard nothing yet."""
    made = copy.copy(listener)
    fresh = StreamListener(
        listener.signature_field_name, listener.predict, listener.predict_name, listener.allow_reuse
    )
    vars(made).update(vars(fresh))
    return made


@contextmanager
def streamed() -> Generator[None, None, None]:
    """A block in which a graph runs in a worker thread of `dspy.streamify`'s loop, if anybody streams."""
    stream = cast("Any", dspy.settings.send_stream)
    if stream is None or isinstance(stream, Bridge):
        yield
        return
    try:
        bridge = Bridge(stream, anyio.from_thread.run_sync(asyncio.get_running_loop))
    except RuntimeError:  # no thread of streamify's, from which DSPy does not stream
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
    """Async version of `streamed`: the block runs on `dspy.streamify`'s loop."""
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
