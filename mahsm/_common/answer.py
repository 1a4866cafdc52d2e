"""What one call of a model took, as its client reports it."""

from dataclasses import dataclass, replace
from math import inf
from typing import cast

from mahsm._common.figures import reported


@dataclass(frozen=True)
class Answer:
    """What one answer of a model took.

    Clients report what their provider sent. What is not a finite number >= 0 is as if it had not been
    reported.

    Attributes:
        model: The model's name, as the client knows it.
        input_tokens: Tokens of the prompt, an integer; 0 if nobody knows.
        output_tokens: Tokens of the answer, an integer; 0 if nobody knows.
        usd: Its price, or None if nobody knows it.
        cached: It came from a cache, and took nothing.
        known: It says how many tokens it took.
        cache_read_tokens: Those of the input that the provider read from its cache.
        cache_creation_tokens: Those of the input that it wrote into its cache.
        reasoning_tokens: Those of the output that are reasoning.
    """

    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None
    cached: bool = False
    known: bool = True
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    reasoning_tokens: int = 0

    def __post_init__(self) -> None:
        def count(name: str, most: float = inf) -> int:
            value = min(int(reported(getattr(self, name)) or 0), most)
            object.__setattr__(self, name, value)
            return cast("int", value)

        tokens = count("input_tokens")
        count("cache_creation_tokens", tokens - count("cache_read_tokens", tokens))
        count("reasoning_tokens", count("output_tokens"))
        object.__setattr__(self, "usd", reported(self.usd))

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input_tokens + self.output_tokens

    def priced(self, price: tuple[float, float]) -> "Answer":
        """The same, at so many US dollars per million tokens in and out; if it does not say how many it took,
        nobody knows.
        """
        if not self.known:
            return self
        usd = (self.input_tokens * price[0] + self.output_tokens * price[1]) / 1e6
        return replace(self, usd=usd)
