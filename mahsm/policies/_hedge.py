"""`Hedge`: a second call for an item that takes unusually long."""

import threading
from collections import deque
from dataclasses import dataclass

from mahsm._common import is_figure, shown
from mahsm.errors import EdgeError


@dataclass(frozen=True)
class Hedge:
    """Start an item once more when it takes longer than most; the first answer wins, and the other call is
    cancelled.

    After Dean and Barroso, The Tail at Scale (2013): with `percentile=0.95`, about 5 % more calls, and the
    slowest are about as slow as the 95th percentile. The second call waits for tokens and a slot of its own,
    and counts in budgets; while it waits, it is called off when the first one ends. A blocking call cannot be
    cancelled; its answer is not waited for, and nothing further is done for it.

    Args:
        percentile: Share of the calls that are quicker than what is hedged, in (0, 1).
        after: How many calls must have ended before any is hedged, >= 1.

    Raises:
        EdgeError: immediately, for invalid values.

    Example:
        >>> from mahsm import vmap
        >>> from mahsm.policies import Hedge
        >>> edge = vmap(lambda state: state["item"] + 1, batch_key="xs", out_key="ys", hedge=Hedge())
        >>> edge.invoke({"xs": [1, 2]})
        {'ys': [2, 3]}
    """

    percentile: float = 0.95
    after: int = 20

    def __post_init__(self) -> None:
        if not (is_figure(self.percentile) and 0 < self.percentile < 1):
            raise EdgeError(
                f"Hedge: percentile={shown(self.percentile)}; expected a share between 0 and 1, as 0.95."
            )
        if isinstance(self.after, bool) or not isinstance(self.after, int) or self.after < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EdgeError(f"Hedge: after={shown(self.after)}; expected an integer of calls >= 1.")


class Durations:
    """How long the recent calls of one run took."""

    def __init__(self, hedge: Hedge) -> None:
        self._hedge = hedge
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=256)

    def add(self, seconds: float) -> None:
        with self._lock:
            self._recent.append(seconds)

    @property
    def patience(self) -> float | None:
        """Seconds after which a call is hedged, or None while too few have ended."""
        with self._lock:
            recent = sorted(self._recent)
        if len(recent) < self._hedge.after:
            return None
        return recent[min(len(recent) - 1, int(self._hedge.percentile * len(recent)))]
