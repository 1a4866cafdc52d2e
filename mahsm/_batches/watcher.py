"""What a run wants to know of its rounds, and what users see of a job."""

from collections.abc import Sequence
from typing import Any, Protocol

from mahsm._batches.jobs import Job
from mahsm.policies import BatchJobStatus


class Watcher(Protocol):
    """What a run wants to know of its rounds. It is called on the loop of batches."""

    def failed(self, error: BaseException) -> None:
        """The rounds cannot go on."""
        ...

    def open_jobs(self, jobs: Sequence[BatchJobStatus]) -> None:
        """Every item waits, and these jobs are open: a run that does not wait ends here."""
        ...

    def began(self, job: Job) -> None:
        """A job is going to be submitted, or is one of an earlier process."""
        ...

    def looked(self, jobs: Sequence[BatchJobStatus]) -> None:
        """The provider has said something new of one of these open jobs."""
        ...

    def ended(self, job: Job, error: BaseException | None, jobs: Sequence[BatchJobStatus]) -> None:
        """A job is done, or not waited for any more, and these are open."""
        ...


def not_accepted(job: Job) -> BatchJobStatus:
    """Return what users see of a job that was refused, and is going to be submitted again."""
    return {**status_of(job), "id": None, "status": "not accepted"}


def status_of(job: Job) -> BatchJobStatus:
    """Return what users see of a job."""
    note, info = job.note, job.info
    data: dict[str, Any] = (info.provider_data if info is not None else None) or {}
    counts: dict[str, Any] = data.get("request_counts") or {}
    return {
        "id": note.id,
        "label": note.label,
        "provider": note.provider,
        "model": note.model,
        "round": note.number,
        "requests": len(note.keys),
        # The first name is OpenAI's, the second one Anthropic's.
        "completed": int(counts.get("completed", counts.get("succeeded", 0)) or 0),
        "failed": int(counts.get("failed", counts.get("errored", 0)) or 0),
        "status": "queued" if info is None else str(info.status),
        "submitted_at": note.at,
    }
