"""`mahsm.testing`: OpenAI's batch endpoints of the model server, through OpenAI's client."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from mahsm.testing import BatchJobs, Call, ModelServer, Reply
from tests.testing.batches import failure, line, openai_client, results, submit, upload

CHAT = "/v1/chat/completions"


def chat_line(custom_id: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": custom_id}]
    return line(custom_id, url=CHAT, messages=messages)


def test_a_job_is_answered_by_the_script() -> None:
    with ModelServer(lambda call: call.text.upper()) as server, openai_client(server) as client:
        id = submit(client, [line("a"), line("b")])
        job = client.batches.retrieve(id)
        answers = results(client, job.output_file_id)
    assert (job.status, job.error_file_id, [call.batch for call in server.calls]) == (
        "completed",
        None,
        [id] * 2,
    )
    assert {
        key: one["response"]["body"]["output"][0]["content"][0]["text"] for key, one in answers.items()
    } == {
        "a": "A",
        "b": "B",
    }


def test_a_job_of_the_chat_api() -> None:
    with ModelServer("yes") as server, openai_client(server) as client:
        job = client.batches.retrieve(submit(client, [chat_line("a")], endpoint=CHAT))
        body = results(client, job.output_file_id)["a"]["response"]["body"]
    assert body["choices"][0]["message"]["content"] == "yes"
    assert server.calls[0].text == "a"


def test_an_error_status_is_a_line_of_the_error_file() -> None:
    def answer(call: Call) -> Reply:
        return Reply.failed(400) if call.text == "bad" else Reply("ok")

    with ModelServer(answer) as server, openai_client(server) as client:
        job = client.batches.retrieve(submit(client, [line("good"), line("bad")]))
        errors = results(client, job.error_file_id)
        assert list(results(client, job.output_file_id)) == ["good"]
    assert job.status == "completed"
    assert job.request_counts is not None
    assert (job.request_counts.total, job.request_counts.completed, job.request_counts.failed) == (2, 1, 1)
    assert errors["bad"]["response"]["status_code"] == 400
    assert errors["bad"]["response"]["body"]["error"]["message"] == "Status 400"


def test_an_answer_that_is_malformed_breaks_its_line() -> None:
    with ModelServer(Reply.malformed()) as server, openai_client(server) as client:
        job = client.batches.retrieve(submit(client, [line("a")]))
        assert job.output_file_id is not None
        assert client.files.content(job.output_file_id).text == '{"choices": [{"mess\n'


def test_an_error_of_the_script_is_an_error_of_its_request() -> None:
    def broken(call: Call) -> str:
        raise LookupError("no such answer")

    with pytest.raises(LookupError), ModelServer(broken) as server, openai_client(server) as client:  # noqa: PT012
        job = client.batches.retrieve(submit(client, [line("a")]))
        errors = results(client, job.error_file_id)
        assert errors["a"]["response"]["status_code"] == 500
        assert "no such answer" in errors["a"]["response"]["body"]["error"]["message"]


def test_streams_are_refused_in_a_job() -> None:
    with ModelServer("yes") as server, openai_client(server) as client:
        job = client.batches.retrieve(submit(client, [line("a", stream=True)]))
        error = results(client, job.error_file_id)["a"]["response"]["body"]["error"]
    assert (error["param"], server.calls) == ("stream", [])


def test_results_come_in_another_order_than_requests_which_the_seed_decides() -> None:
    ids = [str(index) for index in range(20)]
    orders: list[list[str]] = []
    for seed in (0, 0, 1):
        with ModelServer("yes", jobs=BatchJobs(seed=seed)) as server, openai_client(server) as client:
            job = client.batches.retrieve(submit(client, [line(id) for id in ids]))
            orders.append(list(results(client, job.output_file_id)))
            assert [call.text for call in server.calls] == ids
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0], key=int) == ids != orders[0]


def test_metadata_and_the_input_come_back() -> None:
    with ModelServer() as server, openai_client(server) as client:
        job = client.batches.retrieve(submit(client, [line("a")], metadata={"run": "7"}))
        assert job.metadata == {"run": "7"}
        assert client.files.retrieve(job.input_file_id).filename == "requests.jsonl"
        assert json.loads(client.files.content(job.input_file_id).text) == line("a")


def test_files_are_listed_and_deleted() -> None:
    with ModelServer() as server, openai_client(server) as client:
        id = upload(client, [line("a")])
        other = upload(client, [line("a")], purpose="user_data")
        assert [file.id for file in client.files.list()] == [other, id]
        assert [file.id for file in client.files.list(purpose="batch")] == [id]
        client.files.delete(id)
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(id)


def test_jobs_are_listed_newest_first_in_pages() -> None:
    with ModelServer() as server, openai_client(server) as client:
        ids = [submit(client, [line("a")]) for _ in range(5)]
        first = client.batches.list(limit=2)
        assert ([job.id for job in first.data], first.has_more) == ([ids[4], ids[3]], True)
        assert [job.id for job in client.batches.list(limit=2)] == ids[::-1]
        last = client.batches.list(limit=3, after=ids[2])
        assert ([job.id for job in last.data], last.has_more) == ([ids[1], ids[0]], False)


@pytest.mark.parametrize("limit", [0, 101])
def test_a_limit_of_a_list_beyond_its_range_is_refused(limit: int) -> None:
    with ModelServer() as server, openai_client(server) as client:
        with pytest.raises(openai.BadRequestError, match="expected an integer in"):
            client.batches.list(limit=limit)
        with pytest.raises(openai.NotFoundError, match="there is no 'batch_x'"):
            client.batches.list(after="batch_x")


def test_an_async_client() -> None:
    async def ask(url: str) -> str:
        async with openai.AsyncOpenAI(base_url=url, api_key="test") as client:
            data = json.dumps(line("a")).encode()
            file = await client.files.create(file=("requests.jsonl", data), purpose="batch")
            job = await client.batches.create(
                input_file_id=file.id, endpoint="/v1/responses", completion_window="24h"
            )
            job = await client.batches.retrieve(job.id)
            assert job.output_file_id is not None
            return (await client.files.content(job.output_file_id)).text

    with ModelServer("yes") as server:
        assert json.loads(asyncio.run(ask(server.base_url)))["custom_id"] == "a"


# What the provider refuses.

INVALID: dict[str, tuple[list[Any], list[tuple[str, int | None]]]] = {
    "no line": ([""], [("empty_file", None)]),
    "no JSON": ([line("a"), "{", "[]"], [("invalid_json_line", 2), ("invalid_json_line", 3)]),
    "a repeated id": ([line("a"), line("a")], [("duplicate_custom_id", 2)]),
    "no id": ([line("")], [("invalid_custom_id", 1)]),
    "another endpoint": ([line("a", url=CHAT)], [("invalid_url", 1)]),
    "another method": ([line("a") | {"method": "GET"}], [("invalid_method", 1)]),
    "several models": ([line("a"), line("b", model="gpt-4o")], [("mismatched_model", 2)]),
    "no model": ([line("a", model=None)], [("missing_required_parameter", 1)]),
}


@pytest.mark.parametrize(("lines", "errors"), INVALID.values(), ids=INVALID.keys())
def test_the_validation_of_a_file_fails(lines: list[Any], errors: list[Any]) -> None:
    with ModelServer() as server, openai_client(server) as client:
        assert failure(client, lines) == errors
    assert (server.calls, len(server.bill)) == ([], 0)


def test_too_many_requests_fail() -> None:
    with ModelServer(jobs=BatchJobs(max_requests=2)) as server, openai_client(server) as client:
        assert failure(client, [line(id) for id in "abc"]) == [("too_many_tasks", None)]


def test_enqueued_tokens_beyond_the_limit_fail_until_other_jobs_have_ended() -> None:
    long = [line("a", input="word " * 100)]
    with (
        ModelServer(jobs=BatchJobs(enqueued_tokens=200, duration=60)) as server,
        openai_client(server) as client,
    ):
        first = submit(client, long)
        assert failure(client, long) == [("token_limit_exceeded", None)]
        server.jobs.finish(first)
        assert client.batches.retrieve(submit(client, long)).status == "in_progress"


def test_a_file_that_is_too_large_is_refused() -> None:
    with ModelServer(jobs=BatchJobs(max_bytes=100)) as server, openai_client(server) as client:
        with pytest.raises(openai.APIStatusError, match="at most 100 are allowed") as caught:
            upload(client, [line("a" * 100)])
        assert caught.value.status_code == 413


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({"input_file_id": None}, "Missing required parameter: 'input_file_id'"),
    "endpoint": ({"endpoint": "/v1/images"}, "Supported values are"),
    "window": ({"completion_window": "1h"}, "expected '24h'"),
    "pairs": ({"metadata": {str(key): "" for key in range(17)}}, "at most 16 pairs"),
    "key": ({"metadata": {"k" * 65: ""}}, "a key of at most 64"),
    "value": ({"metadata": {"k": "v" * 513}}, "at most 512 characters"),
    "text": ({"metadata": {"k": 1}}, "expected a string"),
}


@pytest.mark.parametrize(("wrong", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_submission_that_is_refused(wrong: dict[str, Any], message: str) -> None:
    with ModelServer() as server, openai_client(server) as client:
        asked: dict[str, Any] = {"endpoint": "/v1/responses", "completion_window": "24h"}
        with pytest.raises(openai.BadRequestError, match=message):
            client.batches.create(**{**asked, "input_file_id": upload(client, [line("a")]), **wrong})
    assert server.jobs.ids == []


def test_purposes_of_files() -> None:
    with ModelServer() as server, openai_client(server) as client:
        asked: Any = {"endpoint": "/v1/responses", "completion_window": "24h"}
        with pytest.raises(openai.BadRequestError, match="'purpose'"):
            upload(client, [line("a")], purpose="party")
        with pytest.raises(openai.BadRequestError, match="expected 'batch'"):
            client.batches.create(input_file_id=upload(client, [line("a")], purpose="user_data"), **asked)


def test_a_form_without_a_file() -> None:
    parts = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\n\r\n\r\n--x--'
    headers = {"Authorization": "Bearer test", "Content-Type": "multipart/form-data; boundary=x"}
    with ModelServer() as server:
        url = f"{server.base_url}/files"
        answer = httpx.post(url, content=parts, headers={**headers, "Connection": "close"})
    assert answer.json()["error"]["message"] == "'file' is a required property"


def test_ids_that_are_unknown() -> None:
    with ModelServer() as server, openai_client(server) as client:
        asks: list[Any] = [
            lambda: client.batches.retrieve("batch_x"),
            lambda: client.batches.cancel("batch_x"),
            lambda: client.files.content("file-x"),
            lambda: client.files.retrieve("file-x"),
            lambda: client.batches.create(
                input_file_id="file-x", endpoint="/v1/responses", completion_window="24h"
            ),
        ]
        for ask in asks:
            with pytest.raises(openai.NotFoundError, match=r"-x|_x"):
                ask()


@pytest.mark.parametrize("path", ["files", "batches", "responses"])
def test_a_key_is_required(path: str) -> None:
    with ModelServer() as server:
        answer = httpx.post(f"{server.base_url}/{path}", json={}, headers={"Connection": "close"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(("path", "kind"), [("files", "multipart"), ("batches", "JSON object")])
def test_a_body_that_is_not_valid(path: str, kind: str) -> None:
    headers = {"Authorization": "Bearer test", "Connection": "close"}
    with ModelServer() as server:
        answer = httpx.post(f"{server.base_url}/{path}", content=b"[", headers=headers)
    assert answer.status_code == 400
    assert kind in answer.json()["error"]["message"]


def test_ten_thousand_requests_are_a_job() -> None:
    with ModelServer(lambda call: call.text) as server, openai_client(server) as client:
        job = client.batches.retrieve(submit(client, [line(str(index)) for index in range(10_000)]))
        assert len(results(client, job.output_file_id)) == 10_000
    assert len(server.bill) == 10_000
