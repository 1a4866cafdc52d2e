"""Clients of a `ModelServer`'s batch endpoints."""

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import openai

from mahsm.testing import ModelServer

ANTHROPIC = {"x-api-key": "test", "anthropic-version": "2023-06-01"}


@contextmanager
def openai_client(server: ModelServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.base_url, api_key="test", max_retries=0) as client:
        yield client


@contextmanager
def anthropic_client(server: ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url, headers=ANTHROPIC) as client:
        yield client


def line(custom_id: str, *, url: str = "/v1/responses", **body: Any) -> dict[str, Any]:
    """A line of a batch file."""
    given = {"model": "gpt-4o-mini", "input": custom_id, **body}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": given}


def upload(client: openai.OpenAI, lines: Sequence[Any], purpose: Any = "batch") -> str:
    data = "\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines)
    return client.files.create(file=("requests.jsonl", io.BytesIO(data.encode())), purpose=purpose).id


def submit(
    client: openai.OpenAI, lines: Sequence[Any], endpoint: Any = "/v1/responses", **options: Any
) -> str:
    """Submit a job, and return its id."""
    file = upload(client, lines)
    return client.batches.create(input_file_id=file, endpoint=endpoint, completion_window="24h", **options).id


def results(client: openai.OpenAI, file: str | None) -> dict[str, Any]:
    """The lines of a file of answers or errors, by their custom_id."""
    assert file is not None
    found = [json.loads(one) for one in client.files.content(file).text.splitlines()]
    return {one["custom_id"]: one for one in found}


def failure(
    client: openai.OpenAI, lines: Sequence[Any], **options: Any
) -> list[tuple[str | None, int | None]]:
    """The codes and lines of the errors that the validation of a job finds."""
    job = client.batches.retrieve(submit(client, lines, **options))
    assert job.status == "failed"
    assert job.request_counts is not None
    assert (job.request_counts.total, job.output_file_id) == (0, None)
    return [(one.code, one.line) for one in (job.errors and job.errors.data) or ()]


def params(text: str, **more: Any) -> dict[str, Any]:
    """A request to Anthropic's API."""
    return {
        "model": "claude-fake",
        "max_tokens": 10,
        "messages": [{"role": "user", "content": text}],
        **more,
    }


def ask_batch(client: httpx.Client, *ids: str, **more: Any) -> httpx.Response:
    """Submit a job to Anthropic's API."""
    requests = [{"custom_id": id, "params": params(id, **more)} for id in ids]
    return client.post("/messages/batches", json={"requests": requests})
