"""`Stream`: the parts of a model's text as they arrive."""

import asyncio
import queue
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Self

from mahsm._models._response import Response
from mahsm._waiting import StopCallbacks, tasks

Call = Callable[[Callable[[str], None]], Awaitable[Response]]
"""An async call of a model, which passes each part of the text to a function."""


class Stream:
    """The parts of a model's text, for `for` and `async for`; then `response` is the whole.

    The call begins with the loop, and is cancelled when the loop is left early: by `break` in an `async for`
    within `async with`, by `break` in a `for`, or by `close()`.

    Example:
        >>> from mahsm import models
        >>> from mahsm.testing import FakeLM
        >>> stream = models.stream(FakeLM("one two three"), "Count.")
        >>> [part for part in stream], stream.response.text
        (['one', ' two', ' three'], 'one two three')
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._stops = StopCallbacks()
        self._task: asyncio.Task[Any] | None = None
        self._response: Response | None = None
        self._begun = False

    @property
    def response(self) -> Response:
        """The whole response.

        Raises:
            RuntimeError: before the stream has ended.
        """
        if self._response is None:
            raise RuntimeError("the stream has not ended; read all of its parts before its response.")
        return self._response

    def __iter__(self) -> Iterator[str]:
        self._begin()
        parts: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        async def run() -> Response:
            return await self._call(parts.put)

        ended = tasks.in_own_thread(lambda: tasks.call(run, on_stop=self._stops.on_stop))
        ended.add_done_callback(lambda _: parts.put(None))
        try:
            while (part := parts.get()) is not None:
                yield part
            self._response = ended.result()
        finally:
            self.close()

    async def __aiter__(self) -> AsyncIterator[str]:
        self._begin()
        parts: asyncio.Queue[str | None] = asyncio.Queue()

        async def run() -> Response:
            try:
                return await self._call(parts.put_nowait)
            finally:
                parts.put_nowait(None)

        self._task = tasks.detached(run())
        try:
            while (part := await parts.get()) is not None:
                yield part
            self._response = await self._task
        finally:
            await self.aclose()

    def _begin(self) -> None:
        if self._begun:
            raise RuntimeError("the stream was read already; call models.stream again, or take its response.")
        self._begun = True

    def close(self) -> None:
        """Cancel the call, if it has not ended."""
        self._stops.stop(asyncio.CancelledError())

    async def aclose(self) -> None:
        """Cancel the call, if it has not ended, and wait until it has."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
