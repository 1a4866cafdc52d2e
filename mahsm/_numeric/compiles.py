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

    def facts(self, before: "JitStats") -> dict[str, float]:
        """What traces say of what was done since."""
        return {
            "jit_compiles": self.compiles - before.compiles,
            "jit_compile_ms": round(self.compile_ms - before.compile_ms, 3),
        }


_PREFIX = "/jax/core/compile/"
_BACKEND = f"{_PREFIX}backend_compile_duration"


class _CompilesHere(threading.local):
    """What has been compiled in this thread, and not been counted yet. JAX reports it on the thread that
    compiles.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, float, str]] = []


_here = _CompilesHere()
_names: set[str] = set()
"""The functions that are counted."""


@cache
def _listen() -> None:
    """Ask JAX to report compilations, once for the process."""
    from mahsm._numeric.untyped_jax import jax

    def note(event: str, seconds: float, **details: Any) -> None:
        name = str(details.get("fun_name", ""))
        if name in _names and event.startswith(_PREFIX):
            _here.events.append((event, seconds, name))

    jax.monitoring.register_event_duration_secs_listener(note)


class Compiles:
    """Counts the calls and compilations of one function. Safe in threads.

    Args:
        name: The function's name.
    """

    def __init__(self, name: str) -> None:
        _listen()
        _names.update((name, f"jit({name})"))
        self._lock = threading.Lock()
        self._calls = self._compiles = 0
        self._seconds = 0.0

    def count(self, *, call: bool = True) -> int:
        """Count what was just done in this thread: a call, perhaps, and what was compiled for it.

        Returns:
            How often it was compiled.
        """
        with self._lock:
            self._calls += call
            if not _here.events:
                return 0
            events, _here.events = _here.events, []
            compiles = sum(event == _BACKEND for event, _, _ in events)
            self._compiles += compiles
            self._seconds += sum(seconds for _, seconds, _ in events)
            return compiles

    @property
    def stats(self) -> JitStats:
        """What was counted so far."""
        return JitStats(self._calls, self._compiles, self._seconds * 1000)
