"""What every part of the package uses, and what knows of none of them.

- `state`    reading states and batches; `shown`: a value in an error
- `check`    checks of arguments
- `figures`  which figures can be counted with
- `answer`   what one call of a model took
- `redact`   masks secrets
- `notes`    notes on exceptions
- `tags`     hashable tags of values, with their types
- `cached`   values that are made when they are first asked for
- `types`    shared names of types
"""

from mahsm._common import check as check
from mahsm._common.answer import Answer as Answer
from mahsm._common.cached import cached as cached
from mahsm._common.figures import MOST as MOST
from mahsm._common.figures import MOST_SECONDS as MOST_SECONDS
from mahsm._common.figures import is_figure as is_figure
from mahsm._common.figures import is_price as is_price
from mahsm._common.figures import reported as reported
from mahsm._common.notes import add_note as add_note
from mahsm._common.redact import MASK as MASK
from mahsm._common.redact import masked as masked
from mahsm._common.redact import redacted as redacted
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
    "masked",
    "missing",
    "read",
    "redacted",
    "reported",
    "shown",
    "tagged",
]
