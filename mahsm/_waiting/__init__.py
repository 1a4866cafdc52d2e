"""Starting work, waiting in line, and stopping, in tasks and in threads.

- `here`         the context variable of this package
- `turns`        waits that end when they are woken, from any thread
- `ways`         the two ways to wait, as a task and as a thread, for code that is written once
- `latch`        a one-shot gate
- `slots`        a semaphore that serves in order
- `arrivals`     the same for callers that are known before they come
- `stops`        callbacks on a stop, and its reason
- `cancelled_by` a block that a stop cancels
- `left_behind`  calls that their caller does not wait for any more
- `threads`      threads that are used again
- `tasks`        besides `threads`, the only file that makes threads and event loops
"""

from mahsm._waiting import left_behind as left_behind
from mahsm._waiting import tasks as tasks
from mahsm._waiting.arrivals import SlotsInOrder as SlotsInOrder
from mahsm._waiting.cancelled_by import cancelled_by as cancelled_by
from mahsm._waiting.here import here as here
from mahsm._waiting.here import set_awaited as set_awaited
from mahsm._waiting.latch import Latch as Latch
from mahsm._waiting.left_behind import LeftBehind as LeftBehind
from mahsm._waiting.left_behind import OwnCall as OwnCall
from mahsm._waiting.slots import Closed as Closed
from mahsm._waiting.slots import Order as Order
from mahsm._waiting.slots import Slots as Slots
from mahsm._waiting.slots import acquire_all as acquire_all
from mahsm._waiting.slots import release_all as release_all
from mahsm._waiting.slots import try_acquire_all as try_acquire_all
from mahsm._waiting.stops import Decided as Decided
from mahsm._waiting.stops import Outrun as Outrun
from mahsm._waiting.stops import StopCallbacks as StopCallbacks
from mahsm._waiting.stops import may_be_stopped as may_be_stopped
from mahsm._waiting.stops import reason_here as reason_here
from mahsm._waiting.stops import word_of as word_of
from mahsm._waiting.tasks import is_cancelled_here as is_cancelled_here
from mahsm._waiting.tasks import never_stopped as never_stopped
from mahsm._waiting.threads import Threads as Threads
from mahsm._waiting.threads import shared_threads as shared_threads
from mahsm._waiting.turns import OnStop as OnStop
from mahsm._waiting.turns import Turn as Turn
from mahsm._waiting.turns import wake_all as wake_all
from mahsm._waiting.ways import TASK as TASK
from mahsm._waiting.ways import THREAD as THREAD
from mahsm._waiting.ways import Way as Way
from mahsm._waiting.ways import run_blocking as run_blocking
from mahsm._waiting.ways import sides as sides

__all__ = [
    "TASK",
    "THREAD",
    "Closed",
    "Decided",
    "Latch",
    "LeftBehind",
    "OnStop",
    "Order",
    "Outrun",
    "OwnCall",
    "Slots",
    "SlotsInOrder",
    "StopCallbacks",
    "Threads",
    "Turn",
    "Way",
    "acquire_all",
    "cancelled_by",
    "here",
    "is_cancelled_here",
    "left_behind",
    "may_be_stopped",
    "never_stopped",
    "reason_here",
    "release_all",
    "run_blocking",
    "set_awaited",
    "shared_threads",
    "sides",
    "tasks",
    "try_acquire_all",
    "wake_all",
    "word_of",
]
