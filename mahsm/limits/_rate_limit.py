"""`RateLimit`: the rate limit of a provider."""

import difflib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias, cast

from langgraph.types import RetryPolicy

from mahsm._common import MOST, State, is_figure, shown
from mahsm.errors import LimitError
from mahsm.limits._line import Rates
from mahsm.policies import Retry

Key: TypeAlias = str | Callable[[State], object]
Tokens: TypeAlias = float | Callable[[State], float]


# One request in thirty years. Below that, the seconds between two requests get too large to compute with.
_SLOWEST = 1e-9


@dataclass(frozen=True)
class RateLimit:
    """The rate limit of a provider, shared by all edges and calls in the process that name the provider.

    A token bucket: in any `t` seconds at most `burst + rate * t` requests are admitted, first come, first
    served. The same holds for tokens; a request waits until there is enough of both.

    Args:
        provider: Name of the provider, such as "openai"; by default that of the target's DSPy language model.
        rps: Requests per second, > 0.
        burst: Requests that a full bucket admits together, >= 1; by default a tenth of a second's worth.
        rpm: Requests per minute, > 0. With `rps`, the lower rate counts.
        tpm: Tokens per minute, input and output, > 0.
        token_burst: Tokens that a full bucket holds, >= 1; by default a second's worth. A request that takes
            more waits for a full bucket.
        retry: Retry policy of edges without their own: a `Retry`, LangGraph's `RetryPolicy`, the number of
            attempts, or a dict of `Retry`'s arguments.
        key: A state key, or a function of the state; each of its values has a bucket of its own, such as one
            per model or per tenant.
        tokens: Tokens that one call takes: a number, or a function of the item's state. By default an
            estimate from the length of what the item adds to the state, and the mean of recent answers. Both
            are corrected by the errors of recent estimates, and settled when the call has ended.

    Raises:
        LimitError: immediately, for invalid values.

    Example:
        >>> from mahsm import RateLimit, vmap
        >>> limit = RateLimit("docs-example", rps=1000, burst=10)
        >>> edge = vmap(lambda state: state["item"] + 1, batch_key="xs", out_key="ys", rate_limit=limit)
        >>> edge.invoke({"xs": [1, 2]})
        {'ys': [2, 3]}
    """

    provider: str | None = None
    rps: float | None = None
    burst: float | None = None
    rpm: float | None = None
    tpm: float | None = None
    token_burst: float | None = None
    retry: "Retry | RetryPolicy | int | Mapping[str, Any] | None" = None
    key: Key | None = None
    tokens: Tokens | None = None

    def __post_init__(self) -> None:
        for name in ("rps", "rpm", "tpm"):
            self._check(name, f"a rate > 0, from {_SLOWEST:g} to {MOST:g}", lambda value: value >= _SLOWEST)
        for name in ("burst", "token_burst"):
            self._check(name, "a number >= 1; 1 admits one after the other", lambda value: value >= 1)
        if self.provider is not None and (not isinstance(self.provider, str) or not self.provider):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LimitError(
                f"RateLimit: provider={shown(self.provider)}; expected a name, such as 'openai'."
            )
        if self.rate is None and self.tpm is None:
            raise LimitError(f"{self.label} has no limit; pass at least one of rps=, rpm= and tpm=.")
        if self.burst is not None and self.rate is None:
            raise LimitError(
                f"{self.label}: burst={self.burst:g} without a rate of requests; also pass rps= or rpm=."
            )
        if self.token_burst is not None and self.tpm is None:
            raise LimitError(
                f"{self.label}: token_burst={self.token_burst:g} without a rate of tokens; also pass tpm=."
            )
        if not callable(self.tokens):
            self._check("tokens", "a number > 0, or a function of the state", lambda value: value > 0)
        _retry(self.label, self.retry)

    @classmethod
    def of(cls, given: "RateLimit | Mapping[str, Any] | str") -> "RateLimit | str":
        """Return a `RateLimit` or a provider's name unchanged; make a `RateLimit` of a dict of its arguments.

        Raises:
            LimitError: for anything else.
        """
        if isinstance(given, RateLimit) or (isinstance(given, str) and given):
            return given
        if not isinstance(given, Mapping):
            raise LimitError(
                f"rate_limit={shown(given)}; expected RateLimit('openai', rps=50), a dict of that, or a name."
            )
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = f" Did you mean {close[0]!r}?" if close else ""
                raise LimitError(
                    f"rate_limit has {name!r}; expected some of {', '.join(map(repr, known))}.{hint}"
                )
        return cls(**given)

    @property
    def label(self) -> str:
        """Its name in errors."""
        return "RateLimit" if self.provider is None else f"RateLimit {self.provider!r}"

    @property
    def rate(self) -> float | None:
        """Requests per second."""
        rates = [rate for rate in (self.rps, None if self.rpm is None else self.rpm / 60) if rate is not None]
        return min(rates) if rates else None

    @property
    def retry_policy(self) -> Retry | None:
        """The retry policy of edges without their own."""
        return _retry(self.label, self.retry)

    @property
    def rates(self) -> Rates:
        """The rates of its buckets."""
        burst = self.burst if self.burst is not None else max(1.0, (self.rate or 0) / 10)
        token_rate = None if self.tpm is None else self.tpm / 60
        token_burst = self.token_burst if self.token_burst is not None else max(1.0, token_rate or 0)
        return Rates(self.rate, burst, token_rate, token_burst)

    def key_of(self, state: State) -> object:
        """Return the key of the bucket that a call in this state takes from."""
        if self.key is None:
            return None
        if not callable(self.key) and self.key not in state:
            raise LimitError(
                f"{self.label}: key={self.key!r}, but the state has only {', '.join(map(repr, state))}."
            )
        found = self.key(state) if callable(self.key) else state[self.key]
        if not isinstance(found, Hashable):
            raise LimitError(
                f"{self.label}: key returned {shown(found)}, which is not hashable; expected a string or a "
                "number."
            )
        return found

    def _check(self, name: str, expected: str, works: Callable[[float], bool]) -> None:
        value: Any = getattr(self, name)
        if value is not None and not (is_figure(value) and works(value)):
            raise LimitError(f"RateLimit: {name}={shown(value)}; expected {expected}.")


def _retry(label: str, retry: Any) -> Retry | None:
    if retry is None:
        return None
    if isinstance(retry, int):
        return Retry(attempts=retry)
    if isinstance(retry, Mapping):
        given = cast("Mapping[str, Any]", retry)
        try:
            return Retry(**given)
        except TypeError as error:
            known = ", ".join(field.name for field in fields(Retry))
            raise LimitError(f"{label}: retry={shown(given)}: {error}. Expected some of {known}.") from None
    return Retry.of(retry)
