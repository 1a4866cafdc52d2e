"""`BatchJobs`: how jobs go on and end, and faults of their endpoints."""

import math
import threading
from typing import Any

import httpx
import openai
import pytest

from mahsm.testing import BatchJobs, Call, Clock, ModelServer
from tests.testing.batches import anthropic_client, ask_batch, line, openai_client, results, submit, upload

LINES = [line(id) for id in "abcd"]


def test_a_job_passes_through_its_statuses_as_the_clock_goes_on() -> None:
    jobs = BatchJobs(validation=10, duration=40, finalizing=5)
    with ModelServer("yes", jobs=jobs) as server, openai_client(server) as client:
        id = submit(client, LINES)
        seen: list[Any] = []
        for seconds in (0, 10, 21, 19, 5):
            jobs.advance(seconds)
            job = client.batches.retrieve(id)
            assert job.request_counts is not None
            seen.append((job.status, job.request_counts.total, job.request_counts.completed))
    assert seen == [
        ("validating", 0, 0),
        ("in_progress", 4, 0),
        ("in_progress", 4, 2),
        ("finalizing", 4, 4),
        ("completed", 4, 4),
    ]
    assert job.in_progress_at == job.created_at + 10
    assert job.finalizing_at == job.created_at + 50
    assert job.completed_at == job.created_at + 55
    assert job.expires_at == job.created_at + 86_400


def test_times_are_those_of_the_statuses_however_late_a_job_is_looked_at() -> None:
    with ModelServer(jobs=BatchJobs(validation=1, duration=2)) as server, openai_client(server) as client:
        id = submit(client, LINES)
        server.jobs.advance(1_000)
        job = client.batches.retrieve(id)
    assert (job.status, job.completed_at) == ("completed", job.created_at + 3)


def test_the_clock_may_be_a_fake_one() -> None:
    clock = Clock()
    jobs = BatchJobs(duration=60, clock=lambda: clock.now)
    with ModelServer(jobs=jobs) as server, openai_client(server) as client:
        id = submit(client, LINES)
        assert jobs.status(id) == "in_progress"
        clock.now += 60
        assert jobs.status(id) == "completed"


def test_a_job_that_takes_longer_than_its_window_expires() -> None:
    with (
        ModelServer("yes", jobs=BatchJobs(duration=200, window=100)) as server,
        openai_client(server) as client,
    ):
        id = submit(client, LINES)
        server.jobs.advance(500)
        job = client.batches.retrieve(id)
        answers, errors = results(client, job.output_file_id), results(client, job.error_file_id)
    assert (job.status, job.expired_at) == ("expired", job.created_at + 100)
    assert sorted(answers) == ["a", "b"]
    assert {id: one["error"]["code"] for id, one in errors.items()} == {
        "c": "batch_expired",
        "d": "batch_expired",
    }
    assert len(server.bill) == 2


def test_a_held_job_stays_in_progress_until_it_is_finished() -> None:
    with ModelServer("yes") as server, openai_client(server) as client:
        server.jobs.hold_next()
        held, other = submit(client, LINES), submit(client, LINES)
        server.jobs.advance(1_000)
        assert [server.jobs.status(id) for id in server.jobs.ids] == ["in_progress", "completed"]
        server.jobs.finish(held)
        assert [job.status for job in client.batches.list()] == ["completed", "completed"]
    assert server.jobs.ids == [held, other]


def test_jobs_without_an_end_finish_all_at_once() -> None:
    with ModelServer("yes", jobs=BatchJobs(duration=math.inf, finalizing=10)) as server:
        with openai_client(server) as client:
            ids = [submit(client, LINES) for _ in range(2)]
        assert len(server.bill) == 0
        server.jobs.finish()
        assert [server.jobs.status(id) for id in ids] == ["completed"] * 2


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_the_next_job_ends_after_some_of_its_requests(end: str) -> None:
    with ModelServer("yes") as server, openai_client(server) as client:
        if end == "expired":
            server.jobs.expire_next(after=3)
        else:
            server.jobs.cancel_next(after=3)
        job = client.batches.retrieve(submit(client, LINES))
        assert (job.status, sorted(results(client, job.output_file_id))) == (end, ["a", "b", "c"])
        assert client.batches.retrieve(submit(client, LINES)).status == "completed"


def test_what_is_said_of_the_next_job_queues() -> None:
    with ModelServer("yes") as server, openai_client(server) as client:
        server.jobs.complete_next()
        server.jobs.fail_next("billing_hard_limit_reached", "No money.", line=3)
        ids = [submit(client, LINES) for _ in range(3)]
        assert [server.jobs.status(id) for id in ids] == ["completed", "failed", "completed"]
        errors = client.batches.retrieve(ids[1]).errors
    assert errors is not None
    assert errors.data is not None
    assert [(one.code, one.message, one.line) for one in errors.data] == [
        ("billing_hard_limit_reached", "No money.", 3)
    ]


def test_a_share_of_each_job_expires() -> None:
    with ModelServer("yes", jobs=BatchJobs(expire_share=0.25)) as server, openai_client(server) as client:
        job = client.batches.retrieve(submit(client, [line(str(index)) for index in range(100)]))
        assert (job.status, len(results(client, job.output_file_id))) == ("expired", 75)
        assert sorted(results(client, job.error_file_id), key=int) != [str(index) for index in range(75, 100)]


def test_a_client_cancels_a_job() -> None:
    with (
        ModelServer("yes", jobs=BatchJobs(duration=40, cancelling=10)) as server,
        openai_client(server) as client,
    ):
        id = submit(client, LINES)
        server.jobs.advance(20)
        assert client.batches.cancel(id).status == "cancelling"
        assert client.batches.cancel(id).status == "cancelling"
        server.jobs.advance(10)
        job = client.batches.retrieve(id)
        assert (job.status, sorted(results(client, job.output_file_id))) == ("cancelled", ["a", "b"])
        assert job.cancelled_at == (job.cancelling_at or 0) + 10
        with pytest.raises(openai.ConflictError, match="with status 'cancelled'"):
            client.batches.cancel(id)


def test_a_job_that_is_cancelled_before_it_began_has_no_requests() -> None:
    with ModelServer(jobs=BatchJobs(validation=10)) as server, openai_client(server) as client:
        id = submit(client, LINES)
        client.batches.cancel(id)
        job = client.batches.retrieve(id)
    assert (job.status, job.output_file_id, job.error_file_id) == ("cancelled", None, None)
    assert job.request_counts is not None
    assert job.request_counts.total == 0


def test_a_poll_does_not_wait_for_the_answers_that_another_one_has_begun() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def answer(call: Call) -> str:
        begun.set()
        assert go_on.wait(60)
        return "yes"

    with ModelServer(answer) as server, openai_client(server) as client:
        id = submit(client, LINES)
        first = threading.Thread(target=client.batches.retrieve, args=(id,))
        first.start()
        assert begun.wait(60)
        assert client.batches.retrieve(id).status == "in_progress"
        go_on.set()
        first.join()
        assert server.jobs.status(id) == "completed"
    assert len(server.calls) == 4


def test_the_script_may_look_at_its_job() -> None:
    def answer(call: Call) -> str:
        assert call.batch is not None
        return f"{server.jobs.status(call.batch)} {len(server.bill)}"

    with ModelServer(answer) as server, openai_client(server) as client:
        job = client.batches.retrieve(submit(client, LINES[:2]))
        answers = results(client, job.output_file_id)
    texts = {id: one["response"]["body"]["output"][0]["content"][0]["text"] for id, one in answers.items()}
    assert texts == {"a": "in_progress 0", "b": "in_progress 1"}


def test_requests_are_answered_once_however_many_look_at_their_job() -> None:
    with ModelServer("yes") as server, openai_client(server) as client:
        id = submit(client, [line(str(index)) for index in range(200)])
        threads = [threading.Thread(target=server.jobs.status, args=(id,)) for _ in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    assert (len(server.bill), server.bill.repeated) == (200, {})


# Faults.


def test_an_upload_is_refused_once() -> None:
    with ModelServer() as server, openai_client(server) as client:
        server.jobs.refuse("upload", 503)
        server.jobs.refuse("upload", 429, retry_after=2)
        with pytest.raises(openai.InternalServerError):
            upload(client, LINES)
        with pytest.raises(openai.RateLimitError) as caught:
            upload(client, LINES)
        assert caught.value.response.headers["retry-after"] == "2"
        assert upload(client, LINES)


@pytest.mark.parametrize("step", ["submit", "status", "results", "cancel", "list"])
def test_every_step_can_be_refused(step: Any) -> None:
    with ModelServer("yes", jobs=BatchJobs(duration=60)) as server, openai_client(server) as client:
        id, file = submit(client, LINES), upload(client, LINES)
        server.jobs.refuse(step, 500)
        asks = {
            "submit": lambda: submit(client, LINES),
            "status": lambda: client.batches.retrieve(id),
            "results": lambda: client.files.content(file),
            "cancel": lambda: client.batches.cancel(id),
            "list": lambda: client.batches.list(),
        }
        with pytest.raises(openai.InternalServerError):
            asks[step]()
        asks[step]()


def test_a_submission_is_accepted_but_its_answer_is_lost() -> None:
    with ModelServer("yes") as server, openai_client(server) as client:
        server.jobs.lose("submit")
        with pytest.raises(openai.APIConnectionError):
            submit(client, LINES)
        assert [job.id for job in client.batches.list()] == server.jobs.ids
        assert len(server.jobs.ids) == 1
        submit(client, LINES)
    assert len(server.bill) == 8, "a job that its client does not know is paid for"
    assert len(server.bill.repeated) == 4


def test_results_break_off_once() -> None:
    with ModelServer("yes") as server, openai_client(server) as client:
        job = client.batches.retrieve(submit(client, LINES))
        server.jobs.break_off("results")
        with pytest.raises(openai.APIConnectionError):
            results(client, job.output_file_id)
        assert sorted(results(client, job.output_file_id)) == list("abcd")


def test_a_test_waits_for_requests_of_a_step() -> None:
    with ModelServer(jobs=BatchJobs(duration=60)) as server, openai_client(server) as client:
        other = threading.Thread(target=submit, args=(client, LINES))
        other.start()
        server.jobs.wait_for("submit")
        with pytest.raises(TimeoutError, match="1 requests of step 'submit' after 0 s; expected 2"):
            server.jobs.wait_for("submit", 2, timeout=0)
        assert len(server.jobs.ids) == 1
        other.join()


def test_faults_of_anthropics_endpoints() -> None:
    with ModelServer("yes") as server, anthropic_client(server) as client:
        server.jobs.refuse("submit", 529)
        assert ask_batch(client, "a").json()["error"]["type"] == "overloaded_error"
        server.jobs.fail_next(message="Not like this.")
        assert ask_batch(client, "a").json()["error"]["message"] == "Not like this."
        server.jobs.lose()
        with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
            ask_batch(client, "a")
        assert len(server.jobs.ids) == 1


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"duration": -1}, "duration=-1; expected a number of seconds >= 0"),
    ({"expire_share": 2}, r"expire_share=2; expected a share of the requests, in \[0, 1\]"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"BatchJobs: {message}"):
        BatchJobs(**options)


def test_a_step_or_a_job_that_there_is_not() -> None:
    wrong: Any = "download"
    with pytest.raises(ValueError, match="step='download'; expected one of 'upload', 'submit'"):
        BatchJobs().refuse(wrong)
    with pytest.raises(KeyError, match="no job 'batch_x'"):
        BatchJobs().status("batch_x")
