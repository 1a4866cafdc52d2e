"""A provider that enforces rate limits, in a process of its own: an independent judge of a client's rate."""

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mahsm.testing._answers import Reply, tokens_of
from mahsm.testing._call import Call
from mahsm.testing._server import ModelServer, client

if TYPE_CHECKING:
    import dspy


@dataclass(frozen=True)
class ProviderReport:
    """Statistics of a `Provider`.

    Attributes:
        calls: The number of requests.
        statuses: The number of answers, by HTTP status.
        tokens: Tokens of the requests that were answered with 200.
        most_at_once: The highest number of requests that were in progress at the same time.
        admitted: For each request that was answered with 200: its arrival, in seconds after the first one,
            and its tokens.
    """

    calls: int
    statuses: dict[int, int]
    tokens: int
    most_at_once: int
    admitted: list[tuple[float, int]]


@dataclass
class Provider:
    """An OpenAI-compatible server with rate limits, which answers calls beyond them with a 429 and
    Retry-After.

    It runs in a process of its own, so it measures when requests arrive, however busy the client is.

    Args:
        rps: Requests per second, or None for no limit.
        burst: Requests that a full bucket holds.
        tpm: Input and output tokens per minute, or None for no limit.
        token_burst: Tokens that a full bucket holds; by default the tokens of one second.
        at_once: The limit of requests in progress at the same time, or None for no limit.
        failures: Share of the calls that get a 503, in [0, 1].
        refusals: Share of the calls that get a 429 although they are within the limits, in [0, 1].
        retry_after: Send Retry-After with a 429.
        latency: Seconds until each answer.
        answer: The answer: a string, or the fields of a DSPy answer.
        seed: Seed of the random failures and refusals.

    Raises:
        ValueError: immediately, for an invalid limit or share.

    Example:
        >>> import dspy
        >>> from mahsm import RateLimit, vmap
        >>> from mahsm.testing import Provider
        >>> ask = dspy.Predict("item -> answer")
        >>> limit = RateLimit("provider-example", rps=100, burst=10)
        >>> edge = vmap(ask, batch_key="questions", out_key="answers", result="answer", rate_limit=limit)
        >>> provider = Provider(rps=100, burst=20, answer={"answer": "yes"})
        >>> with provider, dspy.context(lm=provider.lm()):
        ...     answers = edge.invoke({"questions": ["?"] * 30})["answers"]
        ...     report = provider.report()
        >>> len(answers), report.statuses
        (30, {200: 30})
    """

    rps: float | None = None
    burst: float = 1
    tpm: float | None = None
    token_burst: float | None = None
    at_once: int | None = None
    failures: float = 0.0
    refusals: float = 0.0
    retry_after: bool = True
    latency: float = 0.0
    answer: str | Mapping[str, object] = "yes"
    seed: int = 0
    base_url: str = field(default="", init=False)

    def __post_init__(self) -> None:
        for name in ("rps", "burst", "tpm", "token_burst", "at_once"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"Provider: {name}={value!r}; expected a number > 0.")
        for name in ("failures", "refusals"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"Provider: {name}={value!r}; expected a share of the calls, in [0, 1].")

    def __enter__(self) -> Self:
        options = {name: value for name, value in asdict(self).items() if name != "base_url"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import judge; judge({json.dumps(options)!r})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.base_url = self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The process ends at the end of its input.
        self._process.communicate()

    def lm(self, model: str = "openai/fake", **options: Any) -> "dspy.LM":
        """Return a real DSPy client of this provider, by default without cache and retries."""
        return client(self.base_url, model, options)

    def report(self) -> ProviderReport:
        """Return statistics so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("report\n")
        self._process.stdin.flush()
        seen = json.loads(self._read())
        statuses = {int(status): count for status, count in seen.pop("statuses").items()}
        admitted = [(float(second), int(tokens)) for second, tokens in seen.pop("admitted")]
        return ProviderReport(**seen, statuses=statuses, admitted=admitted)

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


class _Level:
    """A token bucket that reports the wait instead of waiting."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = time.monotonic()

    def lacks(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` is available."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (min(amount, self._burst) - self._left) / self._rate)

    def take(self, amount: float) -> None:
        self._left -= amount


class _Judge:
    """Admits or refuses each call as it arrives."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options
        self._random = random.Random(options["seed"])
        self._lock = threading.Lock()
        rps, tpm = options["rps"], options["tpm"]
        self._requests = None if rps is None else _Level(rps, options["burst"])
        self._tokens = None if tpm is None else _Level(tpm / 60, options["token_burst"] or tpm / 60)
        self.admitted: list[tuple[float, int]] = []
        self.server = ModelServer(self.reply, latency=options["latency"])

    def reply(self, call: Call) -> Reply:
        reply = Reply(self._options["answer"])
        tokens = sum(tokens_of(call, reply))
        amounts = [(self._requests, 1), (self._tokens, tokens)]
        with self._lock:
            drawn = self._random.random()
            if drawn < self._options["failures"]:
                return Reply.failed(503)
            if drawn < self._options["failures"] + self._options["refusals"]:
                return self._limited(0.01)
            if self._options["at_once"] is not None and self.server.answering > self._options["at_once"]:
                return self._limited(0.01)
            lacks = max((level.lacks(amount, call.began) for level, amount in amounts if level), default=0.0)
            if lacks > 0:
                return self._limited(lacks)
            for level, amount in amounts:
                if level is not None:
                    level.take(amount)
            self.admitted.append((call.began, tokens))
        return reply

    def _limited(self, seconds: float) -> Reply:
        reply = Reply.rate_limited(seconds if self._options["retry_after"] else None)
        return Reply(reply.content, reply.status, reply.retry_after, latency=0.0)

    def report(self) -> dict[str, Any]:
        with self._lock:
            admitted, calls = list(self.admitted), list(self.server.calls)
        first = admitted[0][0] if admitted else 0.0
        return {
            "calls": len(calls),
            "statuses": Counter(call.status for call in calls if call.status is not None),
            "tokens": sum(tokens for _, tokens in admitted),
            "most_at_once": self.server.most_at_once,
            "admitted": [(began - first, tokens) for began, tokens in admitted],
        }


def judge(options: str) -> None:
    """Run the server: print its URL, and a report for each line of input, until the input ends."""
    there = _Judge(json.loads(options))
    with there.server:
        print(there.server.base_url, flush=True)  # noqa: T201
        for _ in sys.stdin:
            print(json.dumps(there.report()), flush=True)  # noqa: T201
