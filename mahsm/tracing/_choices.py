"""Where the choices of routers are in traces: the latest in memory, all of them in Langfuse."""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mahsm._common import shown
from mahsm.errors import LearnError

CHOICE_ID = "choice_id"
"""The fact of a span, and with `mahsm.` before it the metadata key, that is the id of a choice."""

_MOST = 10_000
"""The number of latest choices whose places are kept."""


@dataclass(frozen=True, slots=True)
class Place:
    """The observation of an edge run that has made a choice.

    Attributes:
        client: The Langfuse client that it is sent by.
        trace_id: The id of its trace.
        observation_id: Its own id.
        begun: When it began, in whole seconds: Langfuse has more digits in memory than in its API.
        environment: Its environment in Langfuse; None for the client's.
    """

    client: Any
    trace_id: str
    observation_id: str
    begun: datetime
    environment: str | None


class Choices:
    """The places of the latest choices of this process, and which rewards they have. Thread-safe."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, Place] = OrderedDict()
        self._rewarded: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, id: str, place: Place) -> None:
        with self._lock:
            _keep(self._places, id, place)

    def find(self, id: str) -> Place | None:
        return self._places.get(id)

    def reward(self, id: str, name: str, *, replace: bool, known: bool = False) -> None:
        """Note that a choice has a reward.

        Args:
            id: The id of the choice.
            name: The name of the score.
            replace: Whether it may have one already.
            known: Whether Langfuse has one.

        Raises:
            LearnError: if the choice has one already, unless `replace`.
        """
        with self._lock:
            if (known or (id, name) in self._rewarded) and not replace:
                raise LearnError(
                    f"tracing.reward: the choice {shown(id)} has a score {name!r} already; expected one "
                    "reward for each choice. Pass replace=True for a new value."
                )
            _keep(self._rewarded, (id, name), None)


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > _MOST:
        kept.popitem(last=False)
