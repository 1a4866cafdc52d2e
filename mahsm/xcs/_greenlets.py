"""Waiting in the middle of a synchronous call without blocking the event loop.

The code of an async jitted function waits wherever it uses a pending value: in an `if`, in an f-string, in a
helper that it calls. None of these can be awaited. So the function runs in a greenlet: where it has to wait,
it switches to the greenlet of its task, which awaits there, and switches back.
"""

import contextvars
import threading
from collections.abc import Coroutine, Generator
from typing import Any

import greenlet

from mahsm._waiting import TASK
from mahsm.xcs._cells import Cell


class Body:
    """The code of an async function, which may wait without `await`.

    Args:
        coroutine: The call of the function.
        context: The context that it runs in.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context) -> None:
        self._coroutine = coroutine
        self._context = context
        self._greenlet: Any = None
        self._hub: Any = None
        self.thread = threading.get_ident()

    def wait_for(self, cell: Cell) -> None:
        """Let the task await a cell, and go on when it is settled."""
        turn = TASK.turn()
        cell.wake(turn)
        for future in turn.wait().__await__():
            self._switch(future)

    def __await__(self) -> Generator[Any, Any, Any]:
        self._greenlet = _BodyGreenlet(self._drive)
        self._greenlet.body = self
        self._greenlet.gr_context = self._context
        self._hub = greenlet.getcurrent()
        yielded = self._greenlet.switch()
        while not self._greenlet.dead:
            try:
                sent = yield yielded
            except BaseException as error:  # noqa: BLE001  the function gets it
                self._hub = greenlet.getcurrent()
                yielded = self._greenlet.throw(error)
            else:
                self._hub = greenlet.getcurrent()
                yielded = self._greenlet.switch(sent)
        return yielded

    def _switch(self, future: Any) -> Any:
        # The greenlet that resumes the function may be another one each time.
        self._greenlet.parent = self._hub
        return self._hub.switch(future)

    def _drive(self) -> Any:
        """Run the coroutine to its end; pass what it awaits on to the task."""
        resume: Any = self._coroutine.send
        value: Any = None
        while True:
            try:
                future = resume(value)
            except StopIteration as done:
                return done.value
            try:
                value = self._switch(future)
                resume = self._coroutine.send
            except BaseException as error:  # noqa: BLE001  the coroutine gets it
                value, resume = error, self._coroutine.throw


class _BodyGreenlet(greenlet.greenlet):
    body: Body


def body_here() -> Body | None:
    """Return the body whose code runs here, if any."""
    here = greenlet.getcurrent()
    return here.body if isinstance(here, _BodyGreenlet) else None


async def in_body(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Await a coroutine of rewritten code, which may wait without `await`, in the running task."""
    return await Body(coroutine, contextvars.copy_context())
