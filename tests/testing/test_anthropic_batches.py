"""`mahsm.testing`: Anthropic's batch endpoints of the model server, and DSPy's client of them."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from dspy import lm15

from mahsm.testing import BatchJobs, Call, ModelServer, Reply
from tests.testing.batches import ANTHROPIC, anthropic_client, ask_batch, params


def results_of(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    lines = client.get(job["results_url"]).text.splitlines()
    return {one["custom_id"]: one["result"] for one in map(json.loads, lines)}


def status(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    return client.get(f"/messages/batches/{job['id']}").json()


def test_a_job_is_answered_by_the_script() -> None:
    def answer(call: Call) -> Reply:
        return Reply.failed(400) if call.text == "bad" else Reply(call.text.upper())

    with ModelServer(answer) as server, anthropic_client(server) as client:
        job = ask_batch(client, "a", "bad").json()
        assert (job["processing_status"], job["results_url"]) == ("in_progress", None)
        assert job["request_counts"]["processing"] == 2
        job = status(client, job)
        found = results_of(client, job)
    assert (job["processing_status"], job["type"]) == ("ended", "message_batch")
    assert job["request_counts"] == {
        "processing": 0,
        "succeeded": 1,
        "errored": 1,
        "canceled": 0,
        "expired": 0,
    }
    assert found["a"]["message"]["content"] == [{"type": "text", "text": "A"}]
    assert found["bad"]["error"]["error"] == {"type": "invalid_request_error", "message": "Status 400"}
    assert [call.batch for call in server.calls] == [job["id"]] * 2


def test_a_client_cancels_a_job() -> None:
    with (
        ModelServer("yes", jobs=BatchJobs(duration=20, cancelling=5)) as server,
        anthropic_client(server) as client,
    ):
        job = ask_batch(client, "a", "b").json()
        server.jobs.advance(10)
        job = client.post(f"/messages/batches/{job['id']}/cancel").json()
        assert job["processing_status"] == "canceling"
        server.jobs.advance(5)
        job = status(client, job)
        kinds = {id: one["type"] for id, one in results_of(client, job).items()}
        again = client.post(f"/messages/batches/{job['id']}/cancel")
    assert (job["processing_status"], kinds) == ("ended", {"a": "succeeded", "b": "canceled"})
    assert again.status_code == 400


def test_a_job_expires() -> None:
    with ModelServer("yes") as server, anthropic_client(server) as client:
        server.jobs.expire_next(after=1)
        job = status(client, ask_batch(client, "a", "b").json())
        assert job["request_counts"]["expired"] == 1
        assert results_of(client, job)["b"] == {"type": "expired"}


def test_an_answer_that_is_malformed_breaks_its_line() -> None:
    with ModelServer(Reply.malformed()) as server, anthropic_client(server) as client:
        job = status(client, ask_batch(client, "a").json())
        assert client.get(job["results_url"]).text == '{"choices": [{"mess\n'


def test_jobs_are_listed_newest_first_in_pages() -> None:
    with ModelServer() as server, anthropic_client(server) as client:
        ids = [ask_batch(client, "a").json()["id"] for _ in range(4)]

        def listed(query: str) -> tuple[list[str], bool]:
            page = client.get(f"/messages/batches?{query}").json()
            return [job["id"] for job in page["data"]], page["has_more"]

        assert client.get("/messages/batches").json()["first_id"] == ids[3]
        assert listed("limit=2") == ([ids[3], ids[2]], True)
        assert listed(f"limit=2&after_id={ids[2]}") == ([ids[1], ids[0]], False)
        assert listed(f"limit=1&before_id={ids[1]}") == ([ids[2]], True)
        assert client.get("/messages/batches?limit=1001").status_code == 400


REFUSED: dict[str, tuple[Any, str]] = {
    "none": ({}, "Missing required parameter: 'requests'"),
    "no request": ({"requests": []}, "at least 1 item"),
    "no list": ({"requests": 3}, "should be a list"),
    "an id": ({"requests": [{"custom_id": "a.b", "params": {}}]}, "requests.0.custom_id"),
    "a long id": ({"requests": [{"custom_id": "a" * 65, "params": {}}]}, "should match pattern"),
    "a repeated id": ({"requests": [{"custom_id": "a", "params": {}}] * 2}, "'a' is not unique"),
    "no params": ({"requests": [{"custom_id": "a"}]}, "requests.0.params"),
}


@pytest.mark.parametrize(("body", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_submission_that_is_refused(body: Any, message: str) -> None:
    with ModelServer() as server, anthropic_client(server) as client:
        answer = client.post("/messages/batches", json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("options", [{"max_requests": 1}, {"max_bytes": 10}])
def test_a_submission_that_is_too_large(options: dict[str, int]) -> None:
    with ModelServer(jobs=BatchJobs(**options)) as server, anthropic_client(server) as client:
        answer = ask_batch(client, "a", "b")
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "request_too_large")


def test_requests_that_are_not_valid_are_errors_of_their_own() -> None:
    with ModelServer() as server, anthropic_client(server) as client:
        requests = [
            {"custom_id": "stream", "params": params("a", stream=True)},
            {"custom_id": "no-limit", "params": {**params("a"), "max_tokens": None}},
        ]
        job = client.post("/messages/batches", json={"requests": requests}).json()
        found = results_of(client, status(client, job))
    messages = {id: one["error"]["error"]["message"] for id, one in found.items()}
    assert messages == {
        "stream": "Streaming is not supported in a batch.",
        "no-limit": "Missing required parameter: 'max_tokens'.",
    }


def test_results_before_the_end_and_ids_that_are_unknown() -> None:
    with ModelServer(jobs=BatchJobs(duration=60)) as server, anthropic_client(server) as client:
        job = ask_batch(client, "a").json()
        for path in (f"{job['id']}/results", "msgbatch_x", "batch_x/results"):
            answer = client.get(f"/messages/batches/{path}")
            assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")


def test_headers_that_are_required() -> None:
    with ModelServer() as server, httpx.Client(base_url=server.base_url) as client:
        for path in ("/messages", "/messages/batches"):
            answer = client.post(path, json={})
            assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
            answer = client.post(path, json={}, headers={"x-api-key": ANTHROPIC["x-api-key"]})
            assert "anthropic-version" in answer.json()["error"]["message"]


# The client of DSPy, with both providers.


async def batch(server: ModelServer, model: str, texts: list[str]) -> Any:
    provider, name = model.split(":")
    config = lm15.RouterConfig(api_keys={provider: "test"}, base_urls={provider: server.base_url})
    requests = tuple(lm15.Request(model=name, messages=(lm15.Message.user(text),)) for text in texts)
    job = await lm15.AsyncLMRouter(config).lm(model).batch(lm15.BatchRequest(requests=requests))
    await job.wait(poll_every=0.001)
    return job, await job.results()


@pytest.mark.parametrize("model", ["openai:gpt-4o-mini", "anthropic:claude-fake"])
def test_the_client_of_dspy(model: str) -> None:
    def answer(call: Call) -> Reply:
        return Reply.failed(400) if call.text == "1" else Reply(f"{call.model} {call.text}", usage=(7, 2))

    with ModelServer(answer) as server:
        job, entries = asyncio.run(batch(server, model, ["0", "1", "2"]))
    assert (job.id, job.status) == (server.jobs.ids[0], "completed")
    assert [entry.outcome for entry in entries] == ["succeeded", "errored", "succeeded"]
    assert entries[2].response.message.text == f"{model.split(':')[1]} 2"
    assert entries[2].response.usage.input_tokens == 7
    assert [charge.custom_id for charge in server.bill] == ["0", "2"]


@pytest.mark.parametrize("model", ["openai:gpt-4o-mini", "anthropic:claude-fake"])
def test_the_client_of_dspy_sees_a_job_that_expires(model: str) -> None:
    with ModelServer("yes") as server:
        server.jobs.expire_next()
        job, entries = asyncio.run(batch(server, model, ["0", "1"]))
    assert job.status == "expired"
    assert [entry.ok for entry in entries] == [False, False]
