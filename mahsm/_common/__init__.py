"""Helpers for all parts of the package, which import none of these.

- `state`    reading states and batches; `shown` formats a value for an error message
- `check`    checks of arguments
- `figures`  valid figures: tokens, prices, seconds
- `answer`   tokens and price of one model call
- `redact`   masking secrets
- `notes`    notes on exceptions
- `tags`     hashable tags of values, with their types
- `cached`   attributes that are computed on first access
- `registry` objects by name, from functions and from entry points
- `types`    shared type aliases
"""

from mahsm._common import check as check
from mahsm._common.answer import Answer as Answer
from mahsm._common.cached import cached as cached
from mahsm._common.figures import MOST as MOST
from mahsm._common.figures import MOST_SECONDS as MOST_SECONDS
from mahsm._common.figures import Price as Price
from mahsm._common.figures import is_figure as is_figure
from mahsm._common.figures import is_price as is_price
from mahsm._common.figures import reported as reported
from mahsm._common.notes import add_note as add_note
from mahsm._common.redact import MASK as MASK
from mahsm._common.redact import learn_secret as learn_secret
from mahsm._common.redact import masked as masked
from mahsm._common.redact import redacted as redacted
from mahsm._common.registry import Registry as Registry
from mahsm._common.registry import nearest as nearest
from mahsm._common.state import as_dict as as_dict
from mahsm._common.state import batch as batch
from mahsm._common.state import batch_of as batch_of
from mahsm._common.state import missing as missing
from mahsm._common.state import read as read
from mahsm._common.state import shown as shown
from mahsm._common.tags import tagged as tagged
from mahsm._common.types import AsyncCall as AsyncCall
from mahsm._common.types import Overlay as Overlay
from mahsm._common.types import State as State
from mahsm._common.types import SyncCall as SyncCall
from mahsm._common.types import Update as Update

__all__ = [
    "MASK",
    "MOST",
    "MOST_SECONDS",
    "Answer",
    "AsyncCall",
    "Overlay",
    "Price",
    "Registry",
    "State",
    "SyncCall",
    "Update",
    "add_note",
    "as_dict",
    "batch",
    "batch_of",
    "cached",
    "check",
    "is_figure",
    "is_price",
    "learn_secret",
    "masked",
    "missing",
    "nearest",
    "read",
    "redacted",
    "reported",
    "shown",
    "tagged",
]
