"""How fast: what providers allow, kept by everyone in the process.

- `_rate_limit`  `RateLimit`: what a provider allows
- `_registry`    every provider's limit and buckets
- `_bucket`      the bucket of one provider and key: one line, first come first served
- `_quota`       one token bucket of aiolimiter's, which can be given back to and overdrawn
- `_estimate`    how many tokens a call will take
- `_admission`   letting one attempt through, and settling it; `admit`, `report`
- `_langchain`   the same bucket for LangChain's chat models
- `_stats`       what a bucket has done so far
- `_internal`    what the packages above use
"""

from mahsm.limits._admission import Admitted as Admitted
from mahsm.limits._admission import admit as admit
from mahsm.limits._admission import report as report
from mahsm.limits._langchain import langchain as langchain
from mahsm.limits._rate_limit import RateLimit as RateLimit
from mahsm.limits._registry import forget as forget
from mahsm.limits._registry import stats as stats
from mahsm.limits._stats import LimitStats as LimitStats

__all__ = ["Admitted", "LimitStats", "RateLimit", "admit", "forget", "langchain", "report", "stats"]
