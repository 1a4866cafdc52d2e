"""DSPy's reports of calls that have ended: their usage, and answers that could not be parsed."""

from typing import Any, cast

from mahsm._common import Answer


def answer_of(entry: dict[str, Any], *, may_be_cached: bool) -> Answer:
    """Return the `Answer` for an entry of DSPy's history."""
    usage: dict[str, Any] = entry.get("usage") or {}
    return Answer(
        model=str(entry.get("response_model") or entry.get("model") or ""),
        input_tokens=usage.get("prompt_tokens", 0),
        output_tokens=usage.get("completion_tokens", 0),
        usd=entry.get("cost"),
        # For a cached answer, DSPy keeps the price and drops the usage.
        cached=may_be_cached and not usage,
        known=bool(usage),
        cache_read_tokens=_detail(usage, "prompt", "cached_tokens")
        or usage.get("cache_read_input_tokens", 0),
        cache_creation_tokens=_detail(usage, "prompt", "cache_creation_tokens", "cache_write_tokens")
        or usage.get("cache_creation_input_tokens", 0),
        reasoning_tokens=_detail(usage, "completion", "reasoning_tokens"),
    )


def _detail(usage: dict[str, Any], side: str, *names: str) -> Any:
    """Return the tokens of one kind, under the first of these names that has any; None if not reported.

    DSPy gives a dict, and clients of users' own give the object of LiteLLM or of OpenAI's package.
    """
    details: Any = usage.get(f"{side}_tokens_details")
    if details is None:
        return None
    given = (
        cast("dict[str, Any]", details).get(name)
        if isinstance(details, dict)
        else getattr(details, name, None)
        for name in names
    )
    return next(filter(None, given), None)


def unparsed_in(error: BaseException | None) -> frozenset[str]:
    """Return the answers that could not be parsed, of all adapters that tried, if that caused the error."""
    found: set[str] = set()
    while error is not None:
        if isinstance(answer := getattr(error, "lm_response", None), str):
            found.add(answer)
        # The exceptions of an `ExceptionGroup`.
        inside: tuple[BaseException, ...] = getattr(error, "exceptions", ())
        found.update(*map(unparsed_in, inside))
        error = error.__cause__ or error.__context__
    return frozenset(found)
