"""The limits of a worker, which are those of the process that sends it work."""

import threading
from typing import Any

from mahsm.limits import RateLimit, forget, share
from mahsm.limits._internal import define, shared


class _Adopted:
    """What this worker does because a program says so, and not by itself.

    A worker outlives a run, and the process that sends it work may share limits otherwise by then, or have
    defined them anew. What was adopted changes with it; what the worker has done itself stays.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sharing: tuple[str, Any] | None = None
        self._limits: dict[str, RateLimit] = {}

    def sharing(self, given: tuple[str, Any] | None) -> bool:
        """Share limits as the process does that sends work; return whether they are shared.

        A worker that has called `limits.share` itself goes on as before.

        Args:
            given: The arguments of `limits.share`, or None.

        Raises:
            LimitError: if it changes while calls wait in line.
        """
        with self._lock:
            now = shared()
            if now is not None and now != self._sharing:
                return True
            if now != given:
                if now is not None:
                    share(None)
                self._sharing = None
                if given is not None:
                    share(*given)
                    self._sharing = given
            return given is not None

    def limit(self, limit: RateLimit) -> None:
        """Define a limit that has a provider, and forget the one that another run has defined before.

        Raises:
            LimitError: if the worker has defined another one itself.
        """
        provider = str(limit.provider)
        with self._lock:
            before = self._limits.get(provider)
            if before is not None and before.rates != limit.rates:
                forget(provider)
            define(provider, limit)
            self._limits[provider] = limit


adopted = _Adopted()
"""What this worker has adopted."""
