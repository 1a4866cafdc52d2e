"""Counts of compilations, from the events that JAX reports."""

import threading
from dataclasses import dataclass
from functools import cache
from typing import Any


@dataclass(frozen=True)
class JitStats:
    """Statistics of a `jit_edge` in this process.

    Attributes:
        calls: The number of computations; a batch may take several.
        compiles: The number of compilations by JAX, one for each new shape, dtype and static value.
        compile_ms: Milliseconds of compilation, tracing included.
    """

    calls: int = 0
    compiles: int = 0
    compile_ms: float = 0.0

    def facts(self, before: "JitStats") -> dict[str, float]:
        """Return the compilations since an earlier record, as attributes of a trace."""
        return {
            "jit_compiles": self.compiles - before.compiles,
            "jit_compile_ms": round(self.compile_ms - before.compile_ms, 3),
        }


_PREFIX = "/jax/core/compile/"
_BACKEND = f"{_PREFIX}backend_compile_duration"


class _CompilesHere(threading.local):
    """Compilations in this thread that are not counted yet. JAX reports them in the thread that compiles."""

    def __init__(self) -> None:
        self.events: list[tuple[str, float, str]] = []


_here = _CompilesHere()
_names: set[str] = set()
"""Names of the functions whose compilations are counted."""


@cache
def _listen() -> None:
    """Register a listener for JAX's compilation events, once for the process."""
    from mahsm._numeric.untyped_jax import jax

    def note(event: str, seconds: float, **details: Any) -> None:
        name = str(details.get("fun_name", ""))
        if name in _names and event.startswith(_PREFIX):
            _here.events.append((event, seconds, name))

    jax.monitoring.register_event_duration_secs_listener(note)


class Compiles:
    """Counts the calls and compilations of one function. Thread-safe.

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
        """Count one call in this thread (unless `call=False`) and its compilations.

        Returns:
            The number of these compilations.
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
        """The counts so far."""
        return JitStats(self._calls, self._compiles, self._seconds * 1000)
