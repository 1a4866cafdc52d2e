"""Policies for items that fail, are slow, or cost too much.

- `_item_error`    a failure as data, and how `reduce_edge` handles it
- `_retry`         `Retry`: if and when an item is tried again
- `_retryable`     clients' exceptions: if a retry may help, and Retry-After
- `_retry_budget`  a bound on retries while a provider is failing
- `_budget`        `Budget`: limits on money, tokens, time and calls
- `_spending`      `Spending`: what has been spent of a budget
- `_shared_budget` the spending of a budget that processes share
- `_account`       what all of them have spent, in Redis
- `_ask`           what an attempt asks of it
- `_scripts`       what Redis runs
- `_budgets`       the budgets around code that runs; `budget`
- `_batch_api`     `BatchAPI`: model calls as jobs of a provider's batch API
- `_hedge`         `Hedge`: a second call for stragglers
- `_internal`      names that other packages of mahsm import
"""

from mahsm.policies._batch_api import BatchAPI as BatchAPI
from mahsm.policies._batch_api import BatchJobStatus as BatchJobStatus
from mahsm.policies._budget import Budget as Budget
from mahsm.policies._budgets import budget as budget
from mahsm.policies._hedge import Hedge as Hedge
from mahsm.policies._item_error import ItemError as ItemError
from mahsm.policies._item_error import Penalize as Penalize
from mahsm.policies._item_error import is_item_error as is_item_error
from mahsm.policies._item_error import penalize as penalize
from mahsm.policies._retry import Retry as Retry
from mahsm.policies._retryable import is_rate_limited as is_rate_limited
from mahsm.policies._retryable import is_retryable as is_retryable
from mahsm.policies._retryable import retry_after as retry_after
from mahsm.policies._spending import Spending as Spending

__all__ = [
    "BatchAPI",
    "BatchJobStatus",
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
