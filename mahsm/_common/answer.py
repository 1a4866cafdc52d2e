"""`Answer`: the tokens and price of one model call, as its client reports them."""

from dataclasses import dataclass, replace
from typing import cast

from mahsm._common.figures import MOST, Price, reported


@dataclass(frozen=True)
class Answer:
    """The tokens and price of one answer of a model.

    Clients report what their provider sent. A value that is not a finite number >= 0 counts as not reported.

    Attributes:
        model: The model's name, as the client knows it.
        input_tokens: Tokens of the prompt, an integer; 0 if unknown.
        output_tokens: Tokens of the answer, an integer; 0 if unknown.
        usd: Its price in US dollars, or None if unknown.
        cached: True if it came from a cache, and so took no tokens.
        known: True if its tokens were reported.
        cache_read_tokens: Input tokens that the provider read from its cache.
        cache_creation_tokens: Input tokens that it wrote into its cache.
        reasoning_tokens: Output tokens that are reasoning.
        share: What it costs as a share of the model's ordinary price: 0.5 for a batch job's.
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
    share: float = 1.0

    def __post_init__(self) -> None:
        def count(name: str, most: float = MOST) -> int:
            given = getattr(self, name)
            if type(given) is int and 0 <= given <= most:
                return given
            # Most details are not reported.
            value = 0 if given is None else min(int(reported(getattr(self, name)) or 0), most)
            object.__setattr__(self, name, value)
            return cast("int", value)

        tokens = count("input_tokens")
        count("cache_creation_tokens", tokens - count("cache_read_tokens", tokens))
        count("reasoning_tokens", count("output_tokens"))
        object.__setattr__(self, "usd", reported(self.usd))

    @property
    def tokens(self) -> int:
        """Input and output tokens."""
        return self.input_tokens + self.output_tokens

    def priced(self, price: Price) -> "Answer":
        """Return a copy with the price computed from its tokens; unchanged if these are unknown.

        Args:
            price: US dollars per million input tokens, output tokens and perhaps cached input tokens.
        """
        if not self.known:
            return self
        cached = price[2] if len(price) > 2 else price[0]
        inputs = (self.input_tokens - self.cache_read_tokens) * price[0] + self.cache_read_tokens * cached
        usd = (inputs + self.output_tokens * price[1]) / 1e6
        return replace(self, usd=usd * self.share)
