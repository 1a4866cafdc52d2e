"""What happens to items that fail.

- `_item_error`    a failure as data, and what a fan-in does with it
- `_retry`         `Retry`: whether and when an item is tried again
- `_retryable`     what exceptions of clients say about that
- `_retry_budget`  what keeps retries from becoming a storm
- `_budget`        `Budget`: how much may be spent
- `_hedge`         `Hedge`: a second call for stragglers
- `_internal`      what the packages above use
"""

from mahsm.policies._budget import Budget as Budget
from mahsm.policies._budget import Spending as Spending
from mahsm.policies._budget import budget as budget
from mahsm.policies._hedge import Hedge as Hedge
from mahsm.policies._item_error import ItemError as ItemError
from mahsm.policies._item_error import Penalize as Penalize
from mahsm.policies._item_error import is_item_error as is_item_error
from mahsm.policies._item_error import penalize as penalize
from mahsm.policies._retry import Retry as Retry
from mahsm.policies._retryable import is_rate_limited as is_rate_limited
from mahsm.policies._retryable import is_retryable as is_retryable
from mahsm.policies._retryable import retry_after as retry_after

__all__ = [
    "Budget",
    "Hedge",
    "ItemError",
    "Penalize",
    "Retry",
    "Spending",
    "budget",
    "is_item_error",
    "is_rate_limited",
    "is_retryable",
    "penalize",
    "retry_after",
]
