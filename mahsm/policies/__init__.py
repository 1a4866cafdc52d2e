"""What happens to items that fail.

- `_item_error`  a failure as data, and what a fan-in does with it
- `_retry`       `Retry`: whether and when an item is tried again
- `_retryable`   what exceptions of clients say about that
"""

from mahsm.policies._item_error import ItemError as ItemError
from mahsm.policies._item_error import Penalize as Penalize
from mahsm.policies._item_error import is_item_error as is_item_error
from mahsm.policies._item_error import penalize as penalize
from mahsm.policies._retry import Retry as Retry
from mahsm.policies._retryable import is_retryable as is_retryable
from mahsm.policies._retryable import retry_after as retry_after

__all__ = ["ItemError", "Penalize", "Retry", "is_item_error", "is_retryable", "penalize", "retry_after"]
