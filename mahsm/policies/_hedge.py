"""`Hedge`: a second call for an item that takes unusually long."""

import threading
from collections import deque
from dataclasses import dataclass

from mahsm._common import is_figure, shown
from mahsm.errors import EdgeError


@dataclass(frozen=True)
class Hedge:
    """Call an item's target a second time when the first call takes unusually long.

    The first answer wins, and the other call is cancelled. After Dean and Barroso, The Tail at Scale (2013):
    with `percentile=0.95` there are about 5 % more calls, and the slowest items take about as long as the
    95th percentile.

    The second call waits for its own tokens and slot, and counts in budgets. If the first call ends during
    that wait, the second one is not made. A blocking call cannot be cancelled: it runs on, but its answer is
    ignored, and it can begin nothing further.

    Args:
        percentile: Share of calls that must be faster than an item before it is hedged, in (0, 1).
        after: Calls that must have ended before any is hedged, >= 1.

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
                f"Hedge: percentile={shown(self.percentile)}; expected a share between 0 and 1, such as 0.95."
            )
        if isinstance(self.after, bool) or not isinstance(self.after, int) or self.after < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EdgeError(f"Hedge: after={shown(self.after)}; expected an integer >= 1.")


class Durations:
    """The durations of one run's recent calls."""

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
