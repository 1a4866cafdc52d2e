"""Functions made of functions, which are operators: targets of edges, nodes, and plain callables.

- `_function`  `ComposedFunction`: the operator that all of them return
- `_calls`     how a callable of any kind is called, in a thread and in a task
- `_as_node`   composed functions as nodes
- `_chain`     `chain`: one after the other
- `_ensemble`  `ensemble`: concurrently
- `_retry`     `retry`: again after an error
- `_timeout`   `timeout`: for so many seconds
- `_cache`     `cache`: once for equal arguments
- `_flights`   calls in progress that several callers wait for
- `_router`    `policy_router`: a policy that chooses the next node
"""

from mahsm.compose import _as_node as _as_node
from mahsm.compose._cache import CachedFunction as CachedFunction
from mahsm.compose._cache import CacheInfo as CacheInfo
from mahsm.compose._cache import cache as cache
from mahsm.compose._chain import chain as chain
from mahsm.compose._ensemble import ensemble as ensemble
from mahsm.compose._function import ComposedFunction as ComposedFunction
from mahsm.compose._retry import retry as retry
from mahsm.compose._router import policy_router as policy_router
from mahsm.compose._timeout import timeout as timeout

__all__ = [
    "CacheInfo",
    "CachedFunction",
    "ComposedFunction",
    "cache",
    "chain",
    "ensemble",
    "policy_router",
    "retry",
    "timeout",
]
