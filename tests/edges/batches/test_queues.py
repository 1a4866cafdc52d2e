"""Jobs that the provider refuses because its queue is full."""

import threading
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from mahsm import BatchAPI
from mahsm._batches.queues import Queue
from mahsm.testing import BatchJobs, ModelServer
from tests.edges.batches.conftest import MODEL, shout
from tests.edges.batches.test_durability import THREAD, graph_of
from tests.helpers import MODES, run

WORDS = [f"word {number}" for number in range(8)]
ANSWERS = [word.upper() for word in WORDS]
FULL = ("token_limit_exceeded", "Enqueued token limit reached")


@pytest.fixture
def full() -> Iterator[ModelServer]:
    """A server in whose queue there is room for four of the requests."""
    jobs = BatchJobs(enqueued_tokens=1_000)
    with ModelServer(shout, jobs=jobs) as running:
        yield running


def job(**changes: Any) -> Any:
    """A job as a queue sees it."""
    return type("Job", (), {"is_accepted": False, **changes})()


def refused(queue: Queue) -> float | None:
    one = job()
    queue.enter(one)
    return queue.leave(one, is_refused=True)


def test_waits_double_up_to_a_bound_and_begin_anew_when_a_job_is_accepted() -> None:
    queue, waits = Queue(poll=1.0), list[float | None]()
    for _ in range(6):
        waits.append(refused(queue))
        assert not queue.takes
        queue.open()
        assert queue.takes
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    queue.accept()
    assert refused(queue) == 1.0


def test_jobs_that_are_refused_together_are_one_refusal() -> None:
    queue, jobs = Queue(poll=1.0), [job(), job()]
    for one in jobs:
        queue.enter(one)
    assert [queue.leave(one, is_refused=True) for one in jobs] == [None, 1.0]
    queue.open()
    assert refused(queue) == 2.0


def test_a_queue_that_was_full_takes_one_job_after_the_other() -> None:
    queue, first = Queue(poll=1.0), job()
    refused(queue)
    queue.open()
    queue.enter(first)
    assert not queue.takes
    first.is_accepted = True
    assert queue.takes


def test_a_refused_job_waits_until_a_job_in_progress_ends(full: ModelServer, edge_of: Any) -> None:
    full.jobs.hold_next()
    found: list[Any] = []
    edge = edge_of(api=BatchAPI(poll=0.005, max_requests=4))

    def invoke() -> None:
        with dspy.context(lm=full.lm(MODEL)):
            found.append(edge.invoke({"xs": WORDS}))

    thread = threading.Thread(target=invoke)
    thread.start()
    full.jobs.wait_for("status", 30)
    assert len(full.jobs.ids) == 2
    full.jobs.finish()
    thread.join(60)
    assert found[0]["ys"] == ANSWERS
    assert sorted(map(full.jobs.status, full.jobs.ids)) == ["completed", "completed", "failed"]


def test_a_job_is_submitted_again_until_it_is_accepted(server: ModelServer, edge_of: Any) -> None:
    for _ in range(3):
        server.jobs.fail_next(*FULL)
    assert edge_of().invoke({"xs": WORDS})["ys"] == ANSWERS
    assert len(server.jobs.ids) == 4


def interrupted(found: Any) -> list[Any]:
    return [
        (job["status"], job["requests"], job["id"]) for job in found["__interrupt__"][0].value["batch_jobs"]
    ]


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_says_that_a_job_is_not_accepted(mode: str, server: ModelServer, edge_of: Any) -> None:
    for _ in range(2):
        server.jobs.fail_next(*FULL)
    api = BatchAPI(poll=3_600.0, wait="interrupt")
    graph = graph_of(edge_of(api=api), InMemorySaver())
    first = run(graph, {"xs": WORDS}, mode, THREAD)
    for id in range(2):
        assert interrupted(first) == [("queued", 8, server.jobs.ids[id])]
        refused = run(graph, Command(resume=True), mode, THREAD)
        assert interrupted(refused) == [("not accepted", 8, None)]
        first = run(graph, Command(resume=True), mode, THREAD)
    assert interrupted(first) == [("queued", 8, server.jobs.ids[2])]
    assert run(graph, Command(resume=True), mode, THREAD)["ys"] == ANSWERS
    assert (len(server.jobs.ids), len(server.bill)) == (3, 8)


def test_an_interrupt_names_jobs_in_progress_and_those_that_are_not_accepted(
    full: ModelServer, edge_of: Any
) -> None:
    full.jobs.hold_next()
    graph = graph_of(edge_of(api=BatchAPI(poll=3_600.0, max_requests=4, wait="interrupt")), InMemorySaver())
    with dspy.context(lm=full.lm(MODEL)):
        assert [job[0] for job in interrupted(graph.invoke({"xs": WORDS}, THREAD))] == ["queued", "queued"]
        found = interrupted(graph.invoke(Command(resume=True), THREAD))
        assert [job[:2] for job in found] == [("running", 4), ("not accepted", 4)]
        full.jobs.finish()
        resumed = graph.invoke(Command(resume=True), THREAD)
        while "__interrupt__" in resumed:
            resumed = graph.invoke(Command(resume=True), THREAD)
    assert resumed["ys"] == ANSWERS
    assert len(full.bill) == 8
