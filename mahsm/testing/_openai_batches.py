"""OpenAI's batch jobs: `/v1/batches`."""

import json
import threading
from collections.abc import Iterator

from mahsm.testing._batch_job import Entry, Job, Status
from mahsm.testing._chat_completions import CHAT
from mahsm.testing._endpoint import HttpRequest
from mahsm.testing._job_registry import JobRegistry
from mahsm.testing._openai_batch_file import check_file, entries_of
from mahsm.testing._openai_files import OpenAIFiles
from mahsm.testing._pages import metadata_of, page
from mahsm.testing._responses import RESPONSES
from mahsm.testing._wire import Body, Refusal, require

_WIRES = {wire.path: wire for wire in (RESPONSES, CHAT)}
_MOST_REQUESTS = 50_000
_EXPIRED = {
    "code": "batch_expired",
    "message": "This request could not be executed before the completion window expired.",
}
_TIMES: tuple[Status, ...] = (
    "in_progress",
    "finalizing",
    "completed",
    "failed",
    "expired",
    "cancelling",
    "cancelled",
)


class OpenAIBatches:
    """The endpoints of OpenAI's batch jobs."""

    def __init__(self, registry: JobRegistry, files: OpenAIFiles) -> None:
        self._registry = registry
        self._files = files
        self._submitting = threading.Lock()
        self._writing = threading.Lock()

    def create(self, request: HttpRequest) -> Body:
        body = request.json()
        require(body, "input_file_id", "endpoint", "completion_window")
        metadata = metadata_of(body.get("metadata"))
        if body["endpoint"] not in _WIRES:
            raise Refusal(
                400,
                f"Invalid value: {body['endpoint']!r}. Supported values are: {list(_WIRES)!r}.",
                param="endpoint",
            )
        if body["completion_window"] != "24h":
            raise Refusal(
                400, "Invalid value for 'completion_window'; expected '24h'.", param="completion_window"
            )
        file = self._files.get(str(body["input_file_id"]))
        if file.info["purpose"] != "batch":
            message = f"The file has the purpose {file.info['purpose']!r}; expected 'batch'."
            raise Refusal(400, message, code="invalid_file_purpose", param="input_file_id")
        asked = {name: body[name] for name in ("input_file_id", "endpoint", "completion_window")}
        return self._shown(self._add(file.data, {**asked, "metadata": metadata}))

    def _add(self, data: bytes, details: Body) -> Job:
        wire, limits = _WIRES[details["endpoint"]], self._registry.limits
        lines, errors = check_file(data, wire, limits.max_requests or _MOST_REQUESTS)
        entries = entries_of(lines, wire) if not errors else []
        with self._submitting:
            errors = errors or self._over_limit(entries)
            plan = self._registry.plan()
            return self._registry.add("openai", entries, plan.failing(errors), details)

    def _over_limit(self, entries: list[Entry]) -> list[Body]:
        """Return the error of a job that exceeds the limit of enqueued tokens."""
        limit = self._registry.limits.enqueued_tokens
        if limit is None or not entries:
            return []
        model = entries[0].body["model"]
        self._registry.update()
        waiting = [job.entries for job in self._registry.all("openai") if job.entries and not job.ended]
        tokens = sum(
            max(1, len(json.dumps(entry.wire.messages(entry.body))) // 4)
            for enqueued in [*waiting, entries]
            for entry in enqueued
            if entry.body.get("model") == model
        )
        message = (
            f"Enqueued token limit reached for {model} in organization org-test. Limit: {limit:,} enqueued "
            "tokens. Please try again once some in_progress batches have been completed."
        )
        error: Body = {"code": "token_limit_exceeded", "message": message, "param": None, "line": None}
        return [error] if tokens > limit else []

    def get(self, request: HttpRequest) -> Body:
        job = self._job(request.id)
        job.update(self._registry.now(), wait=False)
        return self._shown(job)

    def cancel(self, request: HttpRequest) -> Body:
        job = self._job(request.id)
        if not job.cancel(self._registry.now()):
            raise Refusal(409, f"Cannot cancel a batch with status '{job.status}'.")
        return self._shown(job)

    def list(self, request: HttpRequest) -> Body:
        jobs = self._registry.all("openai")[::-1]
        ids = [job.id for job in jobs]
        found, more = page(ids, jobs, request.query, after="after", before="before", most=100)
        for job in found:
            job.update(self._registry.now(), wait=False)
        ends = {"first_id": found[0].id, "last_id": found[-1].id} if found else {}
        return {"object": "list", "data": [self._shown(job) for job in found], **ends, "has_more": more}

    def _job(self, id: str) -> Job:
        try:
            job = self._registry.get(id)
        except KeyError:
            job = None
        if job is None or job.vendor != "openai":
            raise Refusal(404, f"No batch found with id '{id}'.", param="batch_id")
        return job

    def _shown(self, job: Job) -> Body:
        # Another thread may be bringing the job further.
        date, status = self._registry.date, job.status
        started = {f"{name}_at": int(date(job.times[name])) if name in job.times else None for name in _TIMES}
        errors = {"object": "list", "data": list(job.plan.errors)} if status == "failed" else None
        return {
            "id": job.id,
            "object": "batch",
            "errors": errors,
            "status": status,
            "output_file_id": self._file(job, "output"),
            "error_file_id": self._file(job, "error"),
            "created_at": int(date(job.created)),
            "expires_at": int(date(job.created + job.plan.window)),
            **started,
            "request_counts": {
                "total": len(job.entries) if job.started else 0,
                "completed": job.outcomes["succeeded"],
                "failed": job.outcomes["errored"],
            },
            **job.details,
        }

    def _file(self, job: Job, kind: str) -> str | None:
        """Return the id of a job's file of answers or of errors, or None if it has none."""
        if not job.ended:
            return None
        name = f"{kind}_file_id"
        with self._writing:
            if name not in job.details:
                lines = list(_lines(job, self._registry.shuffled(job.entries), kind))
                data = b"".join(line + b"\n" for line in lines)
                file = self._files.add(f"{job.id}_{kind}.jsonl", "batch_output", data) if lines else None
                job.details[name] = file["id"] if file else None
        return job.details[name]


def _lines(job: Job, entries: list[Entry], kind: str) -> Iterator[bytes]:
    """Return the lines of a file: of answers; or of errors, which has requests that have expired, too."""
    for entry in entries:
        id = f"{job.id}_req_{entry.custom_id}"
        line: Body = {"id": id, "custom_id": entry.custom_id, "response": None, "error": None}
        if isinstance(entry.answer, bytes):
            if kind == "output":
                yield entry.answer
        elif entry.outcome == ("succeeded" if kind == "output" else "errored"):
            answer = {"status_code": entry.status, "request_id": f"req_{id}", "body": entry.answer}
            yield json.dumps({**line, "response": answer}).encode()
        elif kind == "error" and entry.outcome == "expired":
            yield json.dumps({**line, "error": _EXPIRED}).encode()
