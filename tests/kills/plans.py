"""What a worker runs: the kind of graph, the saver, and how many finished rows a kill may cost."""

import json
from dataclasses import asdict, dataclass

MAX_CONCURRENCY = 8
LATENCY = 0.008
"""Seconds that an item takes on average; 8 at a time finish a thousand of them a second."""

KINDS = ("flat", "one-by-one", "nested", "parallel", "subgraph", "policies")
SAVERS = ("sqlite", "async-sqlite", "postgres", "async-postgres")
ITEMS = 400

_OPEN = {"nested": 4, "parallel": 2}
"""How many runs of an edge that calls items may be open at a time."""

_SIZES = {"one-by-one": 1, "nested": 1, "parallel": 2}
"""Items for each task of LangGraph."""


@dataclass(frozen=True)
class Plan:
    """One graph over one saver.

    Attributes:
        kind: One of `KINDS`.
        saver: One of `SAVERS`.
        blocks: Whether items block, or are awaited.
        slow: Seconds that each write takes on top.
        address: Where the saver writes to.
        notes: File that says which items have finished.
        thread: The thread of state.
    """

    kind: str
    saver: str
    blocks: bool
    slow: float
    address: str
    notes: str
    thread: str = "1"

    @property
    def label(self) -> str:
        waits = "blocks" if self.blocks else "awaits"
        return f"{self.kind}, {self.saver}, {waits}, {self.slow * 1000:g} ms a write"

    @property
    def may_run_again(self) -> int:
        """Finished rows that a kill may cost: for each open run of an edge as many as run at once, and two
        tasks of them."""
        return _OPEN.get(self.kind, 1) * (MAX_CONCURRENCY + 2 * _SIZES.get(self.kind, 4))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        return cls(**json.loads(text))
