"""Runs whose model calls become jobs of a provider's batch API.

- `collected`  the block in which a run collects its calls
- `shared`     jobs that several runs share
- `watcher`    what a run is told of its jobs
- `place`      an item in it: its DSPy calls ask for an answer in the next job, in place of being made
"""

from mahsm.edges._batched.collected import collected as collected

__all__ = ["collected"]
