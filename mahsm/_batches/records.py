"""Answers of ordinary calls as plain data, which any checkpointer stores."""

from typing import Any


def record_of(answer: Any) -> dict[str, Any]:
    """Return an answer of DSPy's client as plain data."""
    from dspy.clients.call_result import CallResult

    result: Any = CallResult((answer,))
    return result.dump()


def answer_of(record: dict[str, Any]) -> Any:
    """Return the answer that `record_of` has made plain."""
    from dspy.clients.call_result import CallResult

    return CallResult.load(record).responses[0]
