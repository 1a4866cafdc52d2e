"""Information in clients' exceptions: if a retry may help, and how long the provider asks to wait."""

import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

from mahsm._common import MOST_SECONDS

_RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
_HOPELESS = frozenset({"insufficient_quota", "billing_hard_limit_reached", "context_length_exceeded"})
_TRANSIENT = {
    ("anthropic", "APIConnectionError"),
    ("aiohttp", "ClientConnectionError"),
    ("httpx", "TransportError"),
    ("openai", "APIConnectionError"),
    ("requests", "ConnectionError"),
    ("requests", "Timeout"),
}
"""Exceptions of clients that are neither a `ConnectionError` nor a `TimeoutError`, by package and name."""


def is_retryable(error: Exception) -> bool:
    """Return whether an error is usually transient.

    These are timeouts, connection errors, HTTP 408, 409, 425, 429 and 5xx of any client whose exceptions have
    a status, and DSPy's retryable errors. HTTP 400, 401, 403 and 404, exhausted quotas and prompts that are
    too long are not.

    Example:
        >>> is_retryable(ConnectionResetError()), is_retryable(ValueError("no number"))
        (True, False)
    """
    dspy: Any = sys.modules.get("dspy")
    if dspy is not None and isinstance(error, dspy.LMError):
        return bool(dspy.is_retryable_lm_error(error))
    if getattr(error, "code", None) in _HOPELESS:
        return False
    status = _status(error)
    if status is not None:
        return status in _RETRYABLE_STATUS or 500 <= status < 600
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    return isinstance(error, TimeoutError | ConnectionError) or not kinds.isdisjoint(_TRANSIENT)


def is_rate_limited(error: BaseException) -> bool:
    """Return whether an error is HTTP 429, too many requests.

    It is recognized for any client whose exceptions have a status.

    Example:
        >>> is_rate_limited(TimeoutError())
        False
    """
    dspy: Any = sys.modules.get("dspy")
    if dspy is not None and isinstance(error, dspy.LMRateLimitError):
        return True
    return (
        isinstance(error, Exception)
        and getattr(error, "code", None) not in _HOPELESS
        and _status(error) == 429
    )


def retry_after(error: BaseException | None) -> float | None:
    """Return the seconds that the provider asks to wait, or None if it does not.

    They are read from the exception's `retry_after`, or its response's Retry-After header. They are a finite
    number >= 0: 0 for a date in the past, and at most about thirty years.

    Example:
        >>> error = ConnectionError("slow down")
        >>> error.retry_after = 2
        >>> retry_after(error), retry_after(ValueError())
        (2.0, None)
    """
    found: Any = getattr(error, "retry_after", None)
    if found is None:
        headers: Any = getattr(getattr(error, "response", None), "headers", None)
        found = (
            cast("Mapping[str, Any]", headers).get("retry-after") if isinstance(headers, Mapping) else None
        )
    seconds = None if found is None or isinstance(found, bool) else _seconds(found)
    if seconds is None or math.isnan(seconds):
        return None
    return min(max(0.0, seconds), MOST_SECONDS)


def _seconds(asked: Any) -> float | None:
    """Convert a number, or the time until a date, to seconds."""
    try:
        return float(asked)
    except OverflowError:
        return math.inf if asked > 0 else 0.0
    except (TypeError, ValueError):
        pass
    try:
        return (parsedate_to_datetime(str(asked)) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None


def _status(error: Exception) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "status", "http_status"):
            status = getattr(holder, name, None)
            if isinstance(status, int):
                return status
    return None
