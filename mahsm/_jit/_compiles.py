"""Counting compilations, as JAX itself reports them."""

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class JitStats:
    """What a `jit_edge` has done so far in this process.

    Attributes:
        calls: How often it has computed; a batch counts once for each computation that it takes.
        compiles: How often JAX has compiled it: for each new shape, dtype and static value.
        compile_ms: Milliseconds that took, tracing included.
    """

    calls: int = 0
    compiles: int = 0
    compile_ms: float = 0.0


_here = threading.local()
_PREFIX = "/jax/core/compile/"
_BACKEND = f"{_PREFIX}backend_compile_duration"


@cache
def _listen() -> None:
    """Ask JAX to report compilations, once for the process. It does so on the thread that compiles."""
    from mahsm._jit._jax import jax

    def note(event: str, seconds: float, **details: Any) -> None:
        record = getattr(_here, "record", None)
        if record is not None and event.startswith(_PREFIX):
            record.append((event, seconds, details.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(note)


class Compiles:
    """Counts the calls and compilations of one function.

    Args:
        name: The function's name.
    """

    def __init__(self, name: str) -> None:
        _listen()
        self._fun_name = f"jit({name})"
        self._lock = threading.Lock()
        self._calls = self._compiles = 0
        self._seconds = 0.0

    def begin(self) -> list[Any]:
        """Record the compilations of this thread from here on."""
        _here.record = record = list[Any]()
        return record

    def end(self, record: list[Any], *, call: bool = True) -> bool:
        """Stop recording, and count what was recorded; whether this function was compiled."""
        _here.record = None
        compiled = sum(event == _BACKEND and name == self._fun_name for event, _, name in record)
        with self._lock:
            self._calls += call
            self._compiles += compiled
            self._seconds += sum(seconds for _, seconds, _ in record)
        return compiled > 0

    @property
    def stats(self) -> JitStats:
        """What was counted so far."""
        return JitStats(self._calls, self._compiles, self._seconds * 1000)
