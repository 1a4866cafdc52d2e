"""`Ends`: when a run of an edge is over, before or without all of its items."""

import math
from dataclasses import dataclass

from mahsm._common import check, shown
from mahsm.edges._shared.reducer import Reducer, StopWhen
from mahsm.errors import EdgeError
from mahsm.policies import Budget


@dataclass(frozen=True)
class Ends:
    """When a run of an edge is over, before or without all of its items.

    Attributes:
        deadline: Seconds from its beginning after which it is over.
        budget: The most that it may spend.
        stop_when: Ends it early, given the entries so far.
        min_success: How many items must succeed: a count, or a share as a float.
    """

    deadline: float | None = None
    budget: Budget | None = None
    stop_when: StopWhen | None = None
    min_success: int | float | None = None

    def check(self, edge: str) -> None:
        """Refuse invalid options.

        Raises:
            EdgeError: for the first one that is invalid.
        """
        check.seconds(edge, "deadline", self.deadline)
        check.of_type(edge, "budget", self.budget, Budget, "Budget(usd=1.0)")
        if not isinstance(self.stop_when, Reducer):
            expected = "majority_vote, or a function of the list of entries so far"
            check.function(edge, "stop_when", self.stop_when, expected)
        least = self.min_success
        if least is None or (isinstance(least, float) and 0 < least <= 1):
            return
        if isinstance(least, bool) or not isinstance(least, int) or least < 1:
            raise EdgeError(
                f"{edge}: min_success={shown(least)}; expected a count >= 1, or a share in (0, 1] as a float."
            )

    def failures_allowed(self, total: int) -> int:
        """Return how many of `total` items may fail; negative if too few could succeed without a failure."""
        least = self.min_success
        if least is None:
            return total
        return total - (math.ceil(least * total) if isinstance(least, float) else least)
