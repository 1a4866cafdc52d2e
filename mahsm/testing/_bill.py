"""`Bill`: what a provider charges for its answers."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from mahsm.testing._wire import Body, Tokens, Vendor

_TRANSPORT = ("stream", "stream_options")
"""Parameters that say how an answer is sent, not what is asked."""


@dataclass(frozen=True)
class Charge:
    """What a provider charges for one answer.

    Attributes:
        model: The model.
        input_tokens: All input tokens, those in the prompt cache included.
        cached_tokens: Input tokens that were read from the prompt cache.
        written_tokens: Input tokens that were written to it, where the provider charges for that.
        output_tokens: Output tokens.
        usd: US dollars.
        fingerprint: Equal for requests with equal bodies, in a batch job or not.
        job: The id of the batch job, or None for a request of its own.
        custom_id: The id of the request in its batch job, or None.
    """

    model: str
    input_tokens: int
    cached_tokens: int
    written_tokens: int
    output_tokens: int
    usd: float
    fingerprint: str
    job: str | None = None
    custom_id: str | None = None


@dataclass
class Bill(Sequence[Charge]):
    """What a `ModelServer` charges: one `Charge` for each answer, in order.

    Errors are free. An answer that the client does not get is charged, too: one after it has disconnected, or
    one in a batch job that it has never looked at. Requests of such jobs that are due are answered when you
    read the bill.

    Args:
        prices: US dollars per million input and output tokens, by model.
        default_price: The price of other models.
        batch: The share of the price that requests in batch jobs cost.
        openai_read: The share of the input price that cached tokens cost with OpenAI's APIs.
        anthropic_read: The same with Anthropic's API.
        anthropic_write: The share of the input price that tokens cost which are written to the cache.

    Example:
        >>> import dspy
        >>> from mahsm.testing import Bill, ModelServer, Reply
        >>> bill = Bill({"fake": (1.0, 10.0)})
        >>> with ModelServer(Reply({"answer": "yes"}, usage=(500, 50)), bill=bill) as server:
        ...     with dspy.context(lm=server.lm("openai/fake")):
        ...         _ = dspy.Predict("question -> answer")(question="why?")
        >>> len(bill), bill.usd, bill.repeated
        (1, 0.001, {})
    """

    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    default_price: tuple[float, float] = (1.0, 4.0)
    batch: float = 0.5
    openai_read: float = 0.5
    anthropic_read: float = 0.1
    anthropic_write: float = 1.25
    _charges: list[Charge] = field(default_factory=list[Charge], init=False, repr=False)
    _update: Callable[[], None] = field(default=lambda: None, init=False, repr=False)

    @property
    def usd(self) -> float:
        """The sum, in US dollars."""
        return sum(charge.usd for charge in self._due())

    @property
    def repeated(self) -> dict[str, list[Charge]]:
        """The charges for requests that were answered more than once, by their fingerprint."""
        found: dict[str, list[Charge]] = defaultdict(list)
        for charge in self._due():
            found[charge.fingerprint].append(charge)
        return {fingerprint: charges for fingerprint, charges in found.items() if len(charges) > 1}

    def add(
        self,
        vendor: Vendor,
        body: Body,
        tokens: Tokens,
        *,
        job: str | None = None,
        custom_id: str | None = None,
    ) -> None:
        """Add the charge for an answer."""
        model, cached = str(body.get("model", "")), tokens.cached or 0
        read = self.anthropic_read if vendor == "anthropic" else self.openai_read
        per_input, per_output = self.prices.get(model, self.default_price)
        full = tokens.input - cached - tokens.written
        inputs = full + cached * read + tokens.written * self.anthropic_write
        usd = (inputs * per_input + tokens.output * per_output) / 1e6 * (1.0 if job is None else self.batch)
        counts = (tokens.input, cached, tokens.written, tokens.output)
        self._charges.append(Charge(model, *counts, usd, _fingerprint(body), job, custom_id))

    def before_reading(self, update: Callable[[], None]) -> None:
        """Call a function before the charges are read, which adds those that are due."""
        self._update = update

    def _due(self) -> list[Charge]:
        self._update()
        return list(self._charges)

    @overload
    def __getitem__(self, index: int) -> Charge: ...
    @overload
    def __getitem__(self, index: slice) -> list[Charge]: ...
    def __getitem__(self, index: int | slice) -> Charge | list[Charge]:
        return self._due()[index]

    def __len__(self) -> int:
        return len(self._due())

    def __iter__(self) -> Iterator[Charge]:
        return iter(self._due())


def _fingerprint(body: Body) -> str:
    asked = {name: value for name, value in body.items() if name not in _TRANSPORT}
    return hashlib.blake2b(json.dumps(asked, sort_keys=True).encode(), digest_size=12).hexdigest()
