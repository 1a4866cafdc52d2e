"""`BatchJobs`: the batch jobs of a server, on a clock that a test controls."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mahsm.testing._batch_job import Plan, Status
from mahsm.testing._faults import Fault, Step
from mahsm.testing._job_registry import JobRegistry, Limits
from mahsm.testing._wire import Body, Refusal


@dataclass
class BatchJobs:
    """The batch jobs of a `ModelServer`: how long they take, and how they end.

    A job is "validating", then "in_progress" while its requests are answered at an even pace, "finalizing"
    and at last "completed"; or it ends as "failed", "expired" or "cancelled". These are OpenAI's terms; a job
    of Anthropic's API is "in_progress", "canceling" or "ended". Without arguments, a job is completed when
    its status is first requested.

    `hold_next`, `expire_next`, `cancel_next`, `fail_next` and `complete_next` are each about one job: the
    next one to be submitted that none of them is about yet. `refuse`, `lose` and `break_off` are about
    requests to one of the endpoints: a *step*, which is "upload", "submit", "status", "results", "cancel"
    or "list". Each may be called before and while the server runs, in any thread.

    Args:
        validation: Seconds in "validating".
        duration: Seconds in "in_progress"; `math.inf` for jobs that only end by `finish` or at the end of
            their window.
        finalizing: Seconds in "finalizing".
        cancelling: Seconds in "cancelling", after the client has cancelled a job.
        window: Seconds from a job's creation to its expiry.
        expire_share: Share of each job's requests that expire, in [0, 1]; the job expires when the others
            are answered.
        enqueued_tokens: Input tokens of a model that jobs of OpenAI's API may have in all before they end;
            beyond that, a job fails with `token_limit_exceeded`.
        max_requests: Requests that a job may have; by default 50,000 with OpenAI, 100,000 with Anthropic.
        max_bytes: Size of a batch file or submission; by default 200 MB with OpenAI, 256 MB with Anthropic.
        seed: Seed of the order of results, and of the requests that expire.
        clock: The clock, in seconds. `advance` puts it forward for the jobs.

    Raises:
        ValueError: if a number is < 0, or `expire_share` not in [0, 1].

    Example:
        >>> import json, openai
        >>> from mahsm.testing import BatchJobs, ModelServer
        >>> line = {"custom_id": "a", "method": "POST", "url": "/v1/responses"}
        >>> line["body"] = {"model": "gpt-4o-mini", "input": "Hello"}
        >>> with ModelServer("Hi", jobs=BatchJobs(duration=3_600)) as server:
        ...     with openai.OpenAI(base_url=server.base_url, api_key="test") as client:
        ...         file = client.files.create(
        ...             file=("jobs.jsonl", json.dumps(line).encode()), purpose="batch"
        ...         )
        ...         job = client.batches.create(
        ...             input_file_id=file.id, endpoint="/v1/responses", completion_window="24h"
        ...         )
        ...         print(job.status, client.batches.retrieve(job.id).status)
        ...         server.jobs.advance(3_600)
        ...         print(client.batches.retrieve(job.id).status, server.bill[0].custom_id)
        validating in_progress
        completed a
    """

    validation: float = 0.0
    duration: float = 0.0
    finalizing: float = 0.0
    cancelling: float = 0.0
    window: float = 86_400.0
    expire_share: float = 0.0
    enqueued_tokens: int | None = None
    max_requests: int | None = None
    max_bytes: int | None = None
    seed: int = 0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        for name in ("validation", "duration", "finalizing", "cancelling", "window"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"BatchJobs: {name}={value!r}; expected a number of seconds >= 0.")
        if not 0 <= self.expire_share <= 1:
            raise ValueError(
                f"BatchJobs: expire_share={self.expire_share!r}; expected a share of the requests, in [0, 1]."
            )
        self._registry = JobRegistry(
            usual=Plan(self.validation, self.duration, self.finalizing, self.cancelling, self.window),
            limits=Limits(self.enqueued_tokens, self.max_requests, self.max_bytes),
            expire_share=self.expire_share,
            seed=self.seed,
            clock=self.clock,
        )

    @property
    def ids(self) -> list[str]:
        """The ids of the jobs, in order of submission."""
        return [job.id for job in self._registry.all()]

    def status(self, id: str) -> Status:
        """Return the status of a job, in OpenAI's terms.

        Raises:
            KeyError: if there is no such job.
        """
        return self._registry.updated(id).status

    def advance(self, seconds: float) -> None:
        """Put the clock of the jobs forward."""
        self._registry.offset += seconds

    def finish(self, id: str | None = None) -> None:
        """Bring a job, or every job, to its end: answer its requests now, however long that would take.

        Raises:
            KeyError: if there is no such job.
        """
        for job in self._registry.all() if id is None else [self._registry.get(id)]:
            job.finish(self._registry.now())

    def complete_next(self) -> None:
        """Let the next job pass as usual."""
        self._script()

    def hold_next(self) -> None:
        """Let the next job stay in progress until `finish`."""
        self._script(held=True)

    def expire_next(self, after: int = 0) -> None:
        """Let the next job expire once `after` of its requests are answered."""
        self._script(ends="expired", after=after)

    def cancel_next(self, after: int = 0) -> None:
        """Let the provider cancel the next job once `after` of its requests are answered."""
        self._script(ends="cancelled", after=after)

    def fail_next(
        self,
        code: str = "invalid_json_line",
        message: str = "This line is not parseable as valid JSON.",
        line: int | None = None,
    ) -> None:
        """Let the validation of the next job fail. Anthropic's API refuses its submission with a 400."""
        error: Body = {"code": code, "message": message, "param": None, "line": line}
        self._script(errors=[error])

    def refuse(
        self, step: Step, status: int = 503, *, retry_after: float | None = None, times: int = 1
    ) -> None:
        """Let the next `times` requests of a step fail with an HTTP status; nothing else happens."""
        refusal = Refusal(status, f"Status {status}", retry_after=retry_after)
        self._registry.faults.add(step, Fault(refusal), times)

    def lose(self, step: Step = "submit", *, times: int = 1) -> None:
        """Let the next `times` requests of a step take effect, but close the connection without an answer."""
        self._registry.faults.add(step, Fault(), times)

    def break_off(self, step: Step = "results", *, share: float = 0.5, times: int = 1) -> None:
        """Close the connection of the next `times` requests of a step after a share of the answer's body."""
        self._registry.faults.add(step, Fault(share=share), times)

    def wait_for(self, step: Step, count: int = 1, timeout: float = 60.0) -> None:
        """Wait until the server has had `count` requests of a step, from the beginning, also refused ones.

        Args:
            step: The step.
            count: The number of requests.
            timeout: Seconds.

        Raises:
            TimeoutError: after `timeout`.
        """
        self._registry.faults.wait_for(step, count, timeout)

    def _script(self, **changes: Any) -> None:
        self._registry.script(replace(self._registry.usual, **changes))
