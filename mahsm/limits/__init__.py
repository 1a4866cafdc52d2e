"""Rate limits of providers, shared by the whole process, or by several of them.

- `_rate_limit`  `RateLimit`: the rate limit of a provider
- `_registry`    all limits and buckets, by provider
- `_line`        callers in line, first come first served, and what they are told
- `_bucket`      the bucket of one provider and key in one process: a line, and quotas
- `_quota`       one token bucket, which takes tokens back and can be overdrawn
- `_sharing`     how limits are shared with other processes
- `_shared`      the bucket of one provider and key that processes share
- `_shared_quota`  its quotas in Redis, or the part of them that a process takes without Redis
- `_scripts`     what Redis runs
- `_estimate`    estimates of the tokens that a call will take
- `_admission`   admission of one attempt, and its settlement; `admit`, `report`
- `_langchain`   the same bucket for LangChain's chat models
- `_stats`       statistics of a bucket
- `_internal`    exports for the packages above
"""

from mahsm.limits._admission import Admitted as Admitted
from mahsm.limits._admission import admit as admit
from mahsm.limits._admission import report as report
from mahsm.limits._langchain import langchain as langchain
from mahsm.limits._rate_limit import RateLimit as RateLimit
from mahsm.limits._registry import forget as forget
from mahsm.limits._registry import share as share
from mahsm.limits._registry import stats as stats
from mahsm.limits._stats import LimitStats as LimitStats

__all__ = ["Admitted", "LimitStats", "RateLimit", "admit", "forget", "langchain", "report", "share", "stats"]
