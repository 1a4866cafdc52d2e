"""What a run that goes on does with the answers and errors of the one before."""

import itertools
from typing import Any

import dspy
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

import mahsm
from mahsm import BatchAPI, Retry
from mahsm.testing import Call, ModelServer, Reply
from tests.edges.batches.conftest import Twice, shout
from tests.edges.batches.test_durability import THREAD, graph_of
from tests.helpers import MODES, run

WORDS = [f"word {number}" for number in range(4)]
ANSWERS = [word.upper() for word in WORDS]


def refuses_once(call: Call) -> Reply:
    return Reply.failed(500) if call.field("item") == "word 1" and not call.repeats else shout(call)


@pytest.mark.parametrize("server", [refuses_once], indirect=True)
@pytest.mark.parametrize("mode", MODES)
def test_a_request_that_has_failed_the_run_is_asked_again(
    mode: str, server: ModelServer, edge_of: Any
) -> None:
    graph = graph_of(edge_of(), InMemorySaver())
    with pytest.raises(Exception, match="Status 500"):
        run(graph, {"xs": WORDS}, mode, THREAD)
    assert run(graph, None, mode, THREAD)["ys"] == ANSWERS
    assert (len(server.jobs.ids), len(server.bill)) == (2, 4)


@pytest.mark.parametrize("mode", MODES)
def test_a_job_that_has_failed_the_run_is_submitted_again(
    mode: str, server: ModelServer, edge_of: Any
) -> None:
    server.jobs.fail_next("billing_hard_limit_reached", "Billing hard limit has been reached.")
    graph = graph_of(edge_of(), InMemorySaver())
    with pytest.raises(Exception, match="hard limit"):
        run(graph, {"xs": WORDS}, mode, THREAD)
    assert run(graph, None, mode, THREAD)["ys"] == ANSWERS
    assert (len(server.jobs.ids), len(server.bill)) == (2, 4)


@pytest.mark.parametrize("mode", MODES)
def test_ordinary_calls_are_not_made_again(mode: str, server: ModelServer, edge_of: Any) -> None:
    """The first job expires, and ordinary calls answer the rest of it; the second job fails the run."""
    server.jobs.expire_next(after=1)
    server.jobs.fail_next("billing_hard_limit_reached", "Billing hard limit has been reached.")
    graph = graph_of(edge_of(Twice(), api=BatchAPI(poll=0.01, on_expired="sync")), InMemorySaver())
    with pytest.raises(Exception, match="hard limit"):
        run(graph, {"xs": WORDS}, mode, THREAD)
    assert [charge.job is None for charge in server.bill] == [False, True, True, True]
    with mahsm.usage() as used:
        assert run(graph, None, mode, THREAD)["ys"] == [f"{answer}!" for answer in ANSWERS]
    assert (len(server.jobs.ids), len(server.bill)) == (3, 8)
    assert used.usd == pytest.approx(server.bill.usd)


@pytest.mark.parametrize("server", [refuses_once], indirect=True)
def test_an_ordinary_call_that_was_tried_again_in_a_job_is_not_made_again(
    server: ModelServer, edge_of: Any
) -> None:
    server.jobs.expire_next(after=0)
    api = BatchAPI(poll=0.01, on_expired="sync", wait="interrupt")
    graph = graph_of(edge_of(api=api, retry=Retry(attempts=2, base=0)), InMemorySaver())
    found = graph.invoke({"xs": ["word 1"]}, THREAD)
    while "__interrupt__" in found:
        found = graph.invoke(Command(resume=True), THREAD)
    assert (found["ys"], len(server.bill)) == (["WORD 1"], 1)


def test_the_end_of_a_run_keeps_the_ordinary_calls_under_way(server: ModelServer, edge_of: Any) -> None:
    """An item breaks the run off while the ordinary calls of others wait for their answers."""
    ask = dspy.Predict("item -> answer")
    broken = [True]

    async def target(state: Any) -> Any:
        answer = (await ask.acall(item=state["item"])).answer
        if state["item"] == WORDS[0] and broken:
            broken.pop()
            raise ValueError("on purpose")
        return {"answer": answer}

    server.jobs.expire_next(after=0)
    graph = graph_of(edge_of(target, api=BatchAPI(poll=0.01, on_expired="sync")), InMemorySaver())
    with pytest.raises(ValueError, match="on purpose"):
        graph.invoke({"xs": WORDS}, THREAD)
    assert graph.invoke(None, THREAD)["ys"] == ANSWERS
    assert len(server.bill) == 4


def test_an_interrupt_does_not_wait_for_requests_that_have_no_room(server: ModelServer, edge_of: Any) -> None:
    for _ in range(2):
        server.jobs.hold_next()
    api = BatchAPI(poll=0.01, wait="interrupt", max_enqueued_tokens=300)
    graph = graph_of(edge_of(api=api), InMemorySaver())
    found = graph.invoke({"xs": WORDS}, THREAD)
    rounds = 0
    while "__interrupt__" in found:
        assert len(found["__interrupt__"][0].value["batch_jobs"]) == 1
        server.jobs.finish()
        found, rounds = graph.invoke(Command(resume=True), THREAD), rounds + 1
    assert found["ys"] == ANSWERS
    assert rounds == len(server.jobs.ids) == 2


def test_jobs_of_another_model_are_cancelled(server: ModelServer, edge_of: Any) -> None:
    server.jobs.hold_next()
    saver = InMemorySaver()
    graph = graph_of(edge_of(api=BatchAPI(poll=0.01, wait="interrupt")), saver)
    assert "__interrupt__" in graph.invoke({"xs": WORDS}, THREAD)
    with dspy.context(lm=server.lm("openai/gpt-4o")):
        assert graph_of(edge_of(), saver).invoke(Command(resume=True), THREAD)["ys"] == ANSWERS
    assert [server.jobs.status(job) for job in server.jobs.ids] == ["cancelled", "completed"]
    assert len(server.bill) == 4


numbers = itertools.count()


@pytest.mark.parametrize("server", [lambda call: Reply({"answer": str(next(numbers))})], indirect=True)
def test_equal_requests_of_items_keep_answers_of_their_own(server: ModelServer, edge_of: Any) -> None:
    """The last item is done, and its answer is in the state, when another one breaks the run off."""
    ask = dspy.Predict("item -> answer")
    broken = [True]

    async def target(state: Any) -> Any:
        text, is_last = state["item"]
        answer = (await ask.acall(item=text)).answer
        if not is_last:
            await ask.acall(item="another")
            if broken and broken.pop():
                raise ValueError("on purpose")
        return {"answer": answer}

    graph = graph_of(edge_of(target), InMemorySaver())
    given = {"xs": [("same", False), ("same", False), ("same", True)]}
    with pytest.raises(ValueError, match="on purpose"):
        graph.invoke(given, THREAD)
    assert len(set(graph.invoke(None, THREAD)["ys"])) == 3
    assert len(server.bill) == 5
