"""The answers of a server, by whatever API they are asked for: scripted, cached and charged."""

import itertools
import json
from dataclasses import dataclass

from mahsm.testing._answers import Model, Reply, tokens_of
from mahsm.testing._bill import Bill
from mahsm.testing._call import Call
from mahsm.testing._prompt_cache import Cached, CachedPrefixes, PromptCache
from mahsm.testing._wire import Body, Refusal, Tokens, Wire


@dataclass(frozen=True)
class Exchange:
    """A request and its answer."""

    wire: Wire
    call: Call
    reply: Reply
    tokens: Tokens
    found: Cached | None
    number: int

    @property
    def payload(self) -> bytes:
        """The body of the answer."""
        if self.reply.raw is not None:
            return self.reply.raw
        return json.dumps(self.body).encode()

    @property
    def body(self) -> Body:
        if self.reply.status >= 400:
            return Refusal(self.reply.status, str(self.reply.content)).body(self.wire.vendor)
        return self.wire.answer(self.call, self.reply, self.tokens, self.number)


class Answering:
    """Answers requests of all APIs with one script."""

    def __init__(self, model: Model, bill: Bill, cache: PromptCache | None) -> None:
        self.model = model
        self.bill = bill
        self.raised: list[Exception] = []
        self._cache = CachedPrefixes(cache) if cache is not None else None
        self._numbers = itertools.count(1)

    def begin(self, wire: Wire, body: Body, key: str = "", job: str | None = None) -> Exchange:
        """Record a request, and return it with its answer.

        Raises:
            Refusal: if the request is not valid; or with a status of 500, if the script raises an error.
        """
        try:
            wire.check(body)
            messages = wire.messages(body)
        except (AttributeError, KeyError, TypeError) as error:
            raise Refusal(400, f"The request is not valid: {error!r}.") from None
        call = self.model.arrive(str(body.get("model", "")), messages, body, key, job)
        # The cache is read before the model answers, and written once it does.
        found = self._cache.read(wire.vendor, call) if self._cache is not None else None
        try:
            reply = self.model.answer(call)
        except Exception as error:  # noqa: BLE001  raised by a function of the test
            raise self._failure(error) from None
        try:
            tokens = Tokens(*tokens_of(call, reply))
        except Exception as error:  # noqa: BLE001  the answer has no text
            self.model.end(call, 500)
            raise self._failure(error) from None
        return Exchange(wire, call, reply, found.of(tokens) if found else tokens, found, next(self._numbers))

    def _failure(self, error: Exception) -> Refusal:
        self.raised.append(error)
        return Refusal(500, f"answers raised {error!r}")

    def charge(self, exchange: Exchange, custom_id: str | None = None) -> None:
        """Charge an answer, and keep its prompt in the cache, when the model starts to answer."""
        if exchange.reply.status >= 400:
            return
        if self._cache is not None and exchange.found is not None:
            self._cache.write(exchange.found)
        self.bill.add(
            exchange.wire.vendor,
            exchange.call.body,
            exchange.tokens,
            job=exchange.call.batch,
            custom_id=custom_id,
        )

    def end(self, exchange: Exchange, status: int) -> None:
        """Record that the request has been answered."""
        self.model.end(exchange.call, status)

    def answer(self, wire: Wire, body: Body, job: str, custom_id: str) -> tuple[int, Body | bytes]:
        """Answer a request of a batch job: return the status and the body of the answer."""
        try:
            if body.get("stream"):
                raise Refusal(400, "Streaming is not supported in a batch.", param="stream")
            exchange = self.begin(wire, body, job=job)
        except Refusal as refusal:
            return refusal.status, refusal.body(wire.vendor)
        self.charge(exchange, custom_id)
        self.end(exchange, exchange.reply.status)
        return exchange.reply.status, exchange.body if exchange.reply.raw is None else exchange.reply.raw
