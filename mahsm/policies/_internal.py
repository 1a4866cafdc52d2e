"""Names of this package that edges, limits and nodes import."""

from mahsm.policies._budget import begin_attempt as begin_attempt
from mahsm.policies._budget import check_budgets as check_budgets
from mahsm.policies._budget import spendings as spendings
from mahsm.policies._hedge import Durations as Durations
from mahsm.policies._item_error import item_error as item_error
from mahsm.policies._retry import RETRY_AFTER_CAP as RETRY_AFTER_CAP
from mahsm.policies._retry_budget import forget as forget_retry_budget
from mahsm.policies._retry_budget import is_refused as is_refused
from mahsm.policies._retry_budget import retry_budget as retry_budget

__all__ = [
    "RETRY_AFTER_CAP",
    "Durations",
    "begin_attempt",
    "check_budgets",
    "forget_retry_budget",
    "is_refused",
    "item_error",
    "retry_budget",
    "spendings",
]
