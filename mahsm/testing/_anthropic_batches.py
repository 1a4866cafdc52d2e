"""Anthropic's batch jobs: `/v1/messages/batches`."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, cast

from mahsm.testing._anthropic_messages import MESSAGES
from mahsm.testing._batch_job import Entry, Job, Outcome
from mahsm.testing._endpoint import Download, HttpRequest
from mahsm.testing._job_registry import JobRegistry
from mahsm.testing._pages import page
from mahsm.testing._wire import Body, Refusal, require

_MOST_REQUESTS = 100_000
_MOST_BYTES = 256_000_000
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NAMES = {"cancelled": "canceled"}
"""Results that have another name in OpenAI's API, which jobs use."""


class AnthropicBatches:
    """The endpoints of Anthropic's batch jobs."""

    def __init__(self, registry: JobRegistry) -> None:
        self._registry = registry

    def create(self, request: HttpRequest) -> Body:
        limits = self._registry.limits
        if len(request.body) > (most := limits.max_bytes or _MOST_BYTES):
            raise Refusal(413, f"The request has {len(request.body)} bytes; at most {most} are allowed.")
        body = request.json()
        require(body, "requests")
        given = cast("list[Any]", body["requests"] if isinstance(body["requests"], list) else [])
        if not given:
            raise Refusal(400, "requests: Input should be a list of at least 1 item.")
        if len(given) > (largest := limits.max_requests or _MOST_REQUESTS):
            raise Refusal(413, f"requests: {len(given)} items; at most {largest} are allowed.")
        entries = list(_entries(given))
        plan = self._registry.plan()
        if plan.errors:
            raise Refusal(400, str(plan.errors[0]["message"]))
        return self._shown(self._registry.add("anthropic", entries, plan, {}), request)

    def get(self, request: HttpRequest) -> Body:
        return self._shown(self._updated(request.id), request)

    def cancel(self, request: HttpRequest) -> Body:
        job = self._job(request.id)
        if not job.cancel(self._registry.now()):
            raise Refusal(400, f"Batch {job.id} has ended; it cannot be canceled.")
        return self._shown(job, request)

    def results(self, request: HttpRequest) -> Download:
        job = self._updated(request.id)
        if not job.ended:
            raise Refusal(404, f"Batch {job.id} has no available results: it is in progress.")
        return Download(b"".join(_lines(self._registry.shuffled(job.entries))), "application/x-jsonl")

    def list(self, request: HttpRequest) -> Body:
        jobs = self._registry.all("anthropic")[::-1]
        ids = [job.id for job in jobs]
        found, more = page(ids, jobs, request.query, after="after_id", before="before_id", most=1_000)
        for job in found:
            job.update(self._registry.now(), wait=False)
        return {
            "data": [self._shown(job, request) for job in found],
            "has_more": more,
            "first_id": found[0].id if found else None,
            "last_id": found[-1].id if found else None,
        }

    def _job(self, id: str) -> Job:
        try:
            job = self._registry.get(id)
        except KeyError:
            job = None
        if job is None or job.vendor != "anthropic":
            raise Refusal(404, f"Batch {id} not found")
        return job

    def _updated(self, id: str) -> Job:
        job = self._job(id)
        job.update(self._registry.now(), wait=False)
        return job

    def _shown(self, job: Job, request: HttpRequest) -> Body:
        # Another thread may be bringing the job further.
        ended, last = job.ended, job.status
        at = {status: self._date(time) for status, time in job.times.items()}
        results = f"{request.base_url}/messages/batches/{job.id}/results"
        return {
            "id": job.id,
            "type": "message_batch",
            "processing_status": (
                "ended" if ended else "canceling" if last == "cancelling" else "in_progress"
            ),
            "request_counts": _counts(job, ended),
            "ended_at": at[last] if ended else None,
            "created_at": self._date(job.created),
            "expires_at": self._date(job.created + job.plan.window),
            "archived_at": None,
            "cancel_initiated_at": at.get("cancelling"),
            "results_url": results if ended else None,
        }

    def _date(self, at: float) -> str:
        return datetime.fromtimestamp(self._registry.date(at), UTC).isoformat()


def _entries(given: list[Any]) -> Iterator[Entry]:
    seen: set[str] = set()
    for index, one in enumerate(given):
        request = cast("Body", one) if isinstance(one, dict) else {}
        id, params = request.get("custom_id"), request.get("params")
        if not isinstance(id, str) or not _CUSTOM_ID.fullmatch(id):
            raise Refusal(
                400, f"requests.{index}.custom_id: String should match pattern '^{_CUSTOM_ID.pattern}$'"
            )
        if id in seen:
            raise Refusal(400, f"requests.{index}.custom_id: {id!r} is not unique in the batch.")
        if not isinstance(params, dict):
            raise Refusal(400, f"requests.{index}.params: Field required")
        seen.add(id)
        yield Entry(id, MESSAGES, cast("Body", params))


def _counts(job: Job, ended: bool) -> Body:
    """Return the counts of a job; all requests are in progress until it has ended."""
    done: Mapping[Outcome, int] = job.outcomes if ended else {}
    return {
        "processing": 0 if ended else len(job.entries),
        "succeeded": done.get("succeeded", 0),
        "errored": done.get("errored", 0),
        "canceled": done.get("cancelled", 0),
        "expired": done.get("expired", 0),
    }


def _lines(entries: list[Entry]) -> Iterator[bytes]:
    for entry in entries:
        if isinstance(entry.answer, bytes):
            yield entry.answer + b"\n"
            continue
        result: Body = {"type": _NAMES.get(str(entry.outcome), entry.outcome)}
        if entry.outcome == "succeeded":
            result["message"] = entry.answer
        elif entry.outcome == "errored":
            result["error"] = entry.answer
        yield json.dumps({"custom_id": entry.custom_id, "result": result}).encode() + b"\n"
