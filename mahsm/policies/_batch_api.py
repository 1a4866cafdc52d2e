"""`BatchAPI`: the model calls of a fan-out as jobs of the provider's batch API."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from typing_extensions import TypedDict

from mahsm._common import is_figure, shown
from mahsm.errors import EdgeError

Wait = Literal["poll", "interrupt"]
OnExpired = Literal["retry", "sync", "error"]


class BatchJobStatus(TypedDict):
    """What a provider says of a batch job that is open, or that it has not accepted yet.

    Attributes:
        id: Its id at the provider; None while it is being submitted, or is not accepted.
        label: Its label at the provider.
        provider: Such as "openai".
        model: The model.
        round: Its number in the run, from 0.
        requests: The number of its requests.
        completed: Those of them that are answered.
        failed: Those that were refused.
        status: "queued", "running" or "cancelling"; "not accepted" if the provider has refused it because too
            much is enqueued, so that it is going to be submitted again.
        submitted_at: Seconds since the epoch.
    """

    id: str | None
    label: str
    provider: str
    model: str
    round: int
    requests: int
    completed: int
    failed: int
    status: str
    submitted_at: float


@dataclass(frozen=True)
class BatchAPI:
    """Send the calls of DSPy's models as jobs of the provider's batch API, at about half the price.

    OpenAI, Anthropic and Gemini answer such jobs within minutes to a day. Calls are collected until every
    item waits for an answer, or a job is full. Then they are submitted together, a job for each model.

    Args:
        window: The time in which the provider has to answer, such as "24h": OpenAI's `completion_window`.
            Anthropic and Gemini take none, and have 24 h.
        poll: Seconds between two looks at a job, > 0. They grow to eight times as many while it is not done.
        max_requests: Requests of one job, >= 1. OpenAI takes at most 50,000, Anthropic 100,000.
        max_enqueued_tokens: Input tokens of all jobs that are not done, as the provider counts them for your
            account, or None for no bound. Jobs beyond it are submitted later.
        wait: `"poll"` stays until the jobs are done. `"interrupt"` ends the run with an interrupt of
            LangGraph that names the open jobs; resume the run to look again. It needs a checkpointer.
        on_expired: What becomes of requests that the provider has not answered in time, or whose job was
            cancelled: `"retry"` submits them again, `"sync"` makes ordinary calls at the full price, and
            `"error"` fails their items.
        linger: Seconds for which a job waits for calls of other runs of the process, >= 0: those of an edge
            with the same options in programs that `dspy.Evaluate` or an optimiser runs for each example. It
            is submitted when every run waits, and no call has come for so long. With 0, and in runs with a
            checkpointer, each run has jobs of its own.

    Raises:
        EdgeError: immediately, for invalid values.

    Example:
        >>> from mahsm import BatchAPI
        >>> BatchAPI(poll=30.0).max_requests
        50000
    """

    window: str = "24h"
    poll: float = 60.0
    max_requests: int = 50_000
    max_enqueued_tokens: int | None = None
    wait: Wait = "poll"
    on_expired: OnExpired = "retry"
    linger: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.window, str) or not re.fullmatch(r"[1-9]\d*[hd]", self.window):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EdgeError(
                f"BatchAPI: window={shown(self.window)}; expected hours or days as the provider takes them, "
                "such as '24h'."
            )
        if not (is_figure(self.poll) and self.poll > 0):
            raise EdgeError(f"BatchAPI: poll={shown(self.poll)}; expected seconds > 0, such as 60.0.")
        if not (is_figure(self.linger) and self.linger >= 0):
            raise EdgeError(f"BatchAPI: linger={shown(self.linger)}; expected seconds >= 0, such as 2.0.")
        self._whole("max_requests", self.max_requests, "such as 50_000.")
        if self.max_enqueued_tokens is not None:
            self._whole("max_enqueued_tokens", self.max_enqueued_tokens, "or None for no bound.")
        for name, value, known in (
            ("wait", self.wait, get_args(Wait)),
            ("on_expired", self.on_expired, get_args(OnExpired)),
        ):
            if value not in known:
                raise EdgeError(
                    f"BatchAPI: {name}={shown(value)}; expected one of {', '.join(map(repr, known))}."
                )

    @staticmethod
    def _whole(name: str, value: object, hint: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise EdgeError(f"BatchAPI: {name}={shown(value)}; expected an integer >= 1, {hint}")
