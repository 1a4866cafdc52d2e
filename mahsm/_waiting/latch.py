"""A one-shot gate that tasks and threads can wait on."""

import threading

from mahsm._waiting.turns import OnStop, Turn
from mahsm._waiting.ways import Way


class Latch:
    """A gate that is closed until it is opened, once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: list[Turn] = []
        self._is_open = False

    def open(self) -> None:
        """Let every caller pass, now and later."""
        with self._lock:
            self._is_open = True
            turns, self._turns = self._turns, []
        for turn in turns:
            turn.wake()

    async def wait(self, way: Way, on_stop: OnStop) -> None:
        """Wait until the gate is open or the wait is stopped."""
        turn = way.turn()
        with self._lock:
            if self._is_open:
                return
            self._turns.append(turn)
        with on_stop(lambda _: turn.wake()):
            await turn.wait()
