"""Compositions of functions: what they return is an operator, which is called like the function.

- `_part`      what can be composed: functions, operators, DSPy modules
- `_chain`     `chain`
- `_ensemble`  `ensemble`
- `_retry`     `retry`
- `_timeout`   `timeout`
- `_cache`     `cache`
- `_policy`    `policy_router`
"""

from mahsm.compose._cache import Cached as Cached
from mahsm.compose._cache import CacheInfo as CacheInfo
from mahsm.compose._cache import cache as cache
from mahsm.compose._chain import Chain as Chain
from mahsm.compose._chain import chain as chain
from mahsm.compose._ensemble import Ensemble as Ensemble
from mahsm.compose._ensemble import ensemble as ensemble
from mahsm.compose._part import Composed as Composed
from mahsm.compose._policy import Choice as Choice
from mahsm.compose._policy import PolicyRouter as PolicyRouter
from mahsm.compose._policy import policy_router as policy_router
from mahsm.compose._retry import Retried as Retried
from mahsm.compose._retry import retry as retry
from mahsm.compose._timeout import Timed as Timed
from mahsm.compose._timeout import timeout as timeout

__all__ = [
    "CacheInfo",
    "Cached",
    "Chain",
    "Choice",
    "Composed",
    "Ensemble",
    "PolicyRouter",
    "Retried",
    "Timed",
    "cache",
    "chain",
    "ensemble",
    "policy_router",
    "retry",
    "timeout",
]
