"""Attempts of one item: tenacity does the waiting, `Retry` says how long."""

from collections.abc import Awaitable, Callable
from typing import Any

import tenacity
from langgraph.errors import GraphBubbleUp

from mahsm._slots import Closed
from mahsm._types import Update
from mahsm.edges._items import Item
from mahsm.policies import Retry


async def call_async(retry: Retry, item: Item, attempt: Callable[[], Awaitable[Update]]) -> Update:
    """Await attempts until one succeeds; raises the last one's error as it is."""
    return await tenacity.AsyncRetrying(**_options(retry, item))(attempt)


def call(retry: Retry, item: Item, attempt: Callable[[], Update], pause: Callable[[float], None]) -> Update:
    """The blocking twin of `call_async`; `pause` waits."""
    return tenacity.Retrying(**_options(retry, item), sleep=pause)(attempt)


def _options(retry: Retry, item: Item) -> dict[str, Any]:
    def wait(state: tenacity.RetryCallState) -> float:
        return retry.wait(state.attempt_number, state.outcome.exception() if state.outcome else None)

    def count(state: tenacity.RetryCallState) -> None:
        item.attempts = state.attempt_number

    def again(error: BaseException) -> bool:
        return not isinstance(error, GraphBubbleUp | Closed) and retry.retries(error)

    stop: Any = tenacity.stop_after_attempt(retry.attempts)
    if retry.timeout is not None:
        stop |= tenacity.stop_before_delay(retry.timeout)
    return {
        "stop": stop,
        "wait": wait,
        "retry": tenacity.retry_if_exception(again),
        "before": count,
        "reraise": True,
    }
