"""What DSPy says of a call that has ended: what it took, or why its answer could not be parsed."""

from typing import Any, cast

from mahsm._common import Answer


def answer_of(entry: dict[str, Any], *, may_be_cached: bool) -> Answer:
    usage: dict[str, Any] = entry.get("usage") or {}
    return Answer(
        model=str(entry.get("response_model") or entry.get("model") or ""),
        input_tokens=usage.get("prompt_tokens", 0),
        output_tokens=usage.get("completion_tokens", 0),
        usd=entry.get("cost"),
        cached=may_be_cached and not usage,  # DSPy keeps the price of a cached answer, and drops its usage
        known=bool(usage),
        cache_read_tokens=_detail(usage, "prompt", "cached_tokens"),
        cache_creation_tokens=_detail(usage, "prompt", "cache_creation_tokens"),
        reasoning_tokens=_detail(usage, "completion", "reasoning_tokens"),
    )


def _detail(usage: dict[str, Any], side: str, name: str) -> Any:
    """A kind of tokens, of which DSPy has a dict and LiteLLM an object; None if nobody says."""
    details: Any = usage.get(f"{side}_tokens_details")
    return (
        cast("dict[str, Any]", details).get(name)
        if isinstance(details, dict)
        else getattr(details, name, None)
    )


def unparsed_in(error: BaseException | None) -> frozenset[str]:
    """The answers that could not be parsed, if that is why it failed: of each adapter that tried."""
    found: set[str] = set()
    while error is not None:
        if isinstance(answer := getattr(error, "lm_response", None), str):
            found.add(answer)
        inside: tuple[BaseException, ...] = getattr(error, "exceptions", ())  # of a group
        found.update(*map(unparsed_in, inside))
        error = error.__cause__ or error.__context__
    return frozenset(found)
