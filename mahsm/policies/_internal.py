"""Names of this package that edges, limits and nodes import."""

from mahsm.policies._budgets import after_budgets as after_budgets
from mahsm.policies._budgets import begin_attempt as begin_attempt
from mahsm.policies._budgets import check_budgets as check_budgets
from mahsm.policies._budgets import lease_budgets as lease_budgets
from mahsm.policies._budgets import release as release
from mahsm.policies._budgets import spendings as spendings
from mahsm.policies._hedge import Durations as Durations
from mahsm.policies._item_error import item_error as item_error
from mahsm.policies._retry import RETRY_AFTER_CAP as RETRY_AFTER_CAP
from mahsm.policies._retry_budget import forget as forget_retry_budget
from mahsm.policies._retry_budget import is_refused as is_refused
from mahsm.policies._retry_budget import retry_budget as retry_budget
from mahsm.policies._shared_budget import Lease as Lease
from mahsm.policies._shared_budget import SharedSpending as SharedSpending
from mahsm.policies._shared_budget import spending_of as spending_of
from mahsm.policies._spending import Spending as Spending

__all__ = [
    "RETRY_AFTER_CAP",
    "Durations",
    "Lease",
    "SharedSpending",
    "Spending",
    "after_budgets",
    "begin_attempt",
    "check_budgets",
    "forget_retry_budget",
    "is_refused",
    "item_error",
    "lease_budgets",
    "release",
    "retry_budget",
    "spending_of",
    "spendings",
]
