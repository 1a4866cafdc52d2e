"""Requests that fail, jobs that end without answers, and runs that end before their jobs."""

from typing import Any, TypedDict

import dspy
import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph
from langgraph.types import interrupt

import mahsm
from mahsm import BatchAPI, Budget, Retry, connect, is_item_error, vmap
from mahsm.errors import BudgetExceeded, EdgeError
from mahsm.testing import Call, FakeChatModel, FakeLM, ModelServer, Reply
from tests.edges.batches.conftest import Twice, shout
from tests.helpers import MODES, DictState, run, thread

WORDS = [f"word {number}" for number in range(8)]
ANSWERS = [word.upper() for word in WORDS]


def refuses_once(call: Call) -> Reply:
    """Refuse each request of an odd word once."""
    return Reply.failed(500) if int(call.field("item")[-1]) % 2 and not call.repeats else shout(call)


def refuses_odd(call: Call) -> Reply:
    return Reply.failed(400) if int(call.field("item")[-1]) % 2 else shout(call)


@pytest.mark.parametrize("server", [refuses_once], indirect=True)
@pytest.mark.parametrize("mode", MODES)
def test_a_refused_request_is_tried_in_the_next_round(mode: str, server: ModelServer, edge_of: Any) -> None:
    edge = edge_of(retry=Retry(attempts=3, base=0))
    assert run(edge, {"xs": WORDS}, mode)["ys"] == ANSWERS
    assert len(server.jobs.ids) >= 2
    assert len(server.bill) == 8


@pytest.mark.parametrize("server", [refuses_odd], indirect=True)
@pytest.mark.parametrize("mode", MODES)
def test_an_error_names_its_job_and_request(mode: str, server: ModelServer, edge_of: Any) -> None:
    ys = run(edge_of(on_error="collect"), {"xs": WORDS}, mode)["ys"]
    failed = [entry for entry in ys if is_item_error(entry)]
    assert [entry["index"] for entry in failed] == [1, 3, 5, 7]
    assert f"batch job {server.jobs.ids[0]}" in failed[0]["message"]


@pytest.mark.parametrize("step", ["upload", "submit", "status", "results"])
@pytest.mark.parametrize("status", [429, 503])
def test_a_provider_that_is_busy_is_asked_again(
    step: Any, status: int, server: ModelServer, edge_of: Any
) -> None:
    server.jobs.refuse(step, status, times=2)
    assert edge_of().invoke({"xs": WORDS})["ys"] == ANSWERS
    assert len(server.bill) == 8


def test_an_answer_to_a_submission_that_is_lost_makes_no_second_job(
    server: ModelServer, edge_of: Any
) -> None:
    server.jobs.lose("submit")
    assert edge_of().invoke({"xs": WORDS})["ys"] == ANSWERS
    assert len(server.jobs.ids) == 1


def test_results_that_break_off_are_fetched_again(server: ModelServer, edge_of: Any) -> None:
    server.jobs.break_off("results")
    assert edge_of().invoke({"xs": WORDS})["ys"] == ANSWERS


@pytest.mark.parametrize("how", ["expire_next", "cancel_next"])
@pytest.mark.parametrize("mode", MODES)
def test_requests_of_a_job_that_expires_are_submitted_again(
    mode: str, how: str, server: ModelServer, edge_of: Any
) -> None:
    getattr(server.jobs, how)(after=3)
    assert run(edge_of(), {"xs": WORDS}, mode)["ys"] == ANSWERS
    assert (len(server.jobs.ids), len(server.bill)) == (2, 8)


@pytest.mark.parametrize("mode", MODES)
def test_requests_of_a_job_that_expires_become_ordinary_calls(
    mode: str, server: ModelServer, edge_of: Any
) -> None:
    server.jobs.expire_next(after=3)
    with mahsm.usage() as used:
        ys = run(edge_of(api=BatchAPI(poll=0.01, on_expired="sync")), {"xs": WORDS}, mode)["ys"]
    assert ys == ANSWERS
    assert [charge.job is None for charge in server.bill].count(True) == 5
    assert used.usd == pytest.approx(server.bill.usd)


def test_requests_of_a_job_that_expires_fail_their_items(server: ModelServer, edge_of: Any) -> None:
    server.jobs.expire_next(after=3)
    edge = edge_of(api=BatchAPI(poll=0.01, on_expired="error"), on_error="collect")
    failed = [entry for entry in edge.invoke({"xs": WORDS})["ys"] if is_item_error(entry)]
    assert len(failed) == 5
    assert "ended before it was answered" in failed[0]["message"]


def test_a_job_that_the_provider_refuses_fails_its_items(server: ModelServer, edge_of: Any) -> None:
    server.jobs.fail_next()
    failed = edge_of(on_error="collect").invoke({"xs": WORDS})["ys"]
    assert all(map(is_item_error, failed))
    assert "not parseable" in failed[0]["message"]
    assert server.jobs.ids[0] in failed[0]["message"]


def test_a_job_for_which_there_is_no_room_is_submitted_later(server: ModelServer, edge_of: Any) -> None:
    server.jobs.fail_next(code="token_limit_exceeded", message="Enqueued token limit reached")
    assert edge_of().invoke({"xs": WORDS})["ys"] == ANSWERS
    assert len(server.jobs.ids) == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_deadline_cancels_the_job(mode: str, server: ModelServer, edge_of: Any) -> None:
    server.jobs.hold_next()
    ys = run(edge_of(on_error="collect", deadline=0.5), {"xs": WORDS}, mode)["ys"]
    assert [entry["type"] for entry in ys] == ["TimeoutError"] * 8
    assert server.jobs.status(server.jobs.ids[0]) == "cancelled"


@pytest.mark.parametrize("mode", MODES)
def test_an_error_leaves_no_job_open(mode: str, server: ModelServer, lm: Any, edge_of: Any) -> None:
    ask = dspy.Predict("item -> answer")

    async def fails(state: Any) -> Any:
        if state["item"].endswith("7"):
            server.jobs.hold_next()
            await ask.acall(item="first")
            raise ValueError("on purpose")
        return {"answer": (await ask.acall(item=state["item"])).answer}

    edge = edge_of(fails, api=BatchAPI(poll=0.01, max_requests=1))
    with pytest.raises(ValueError, match="on purpose"):
        run(edge, {"xs": WORDS}, mode)
    assert all(server.jobs.status(job) in ("completed", "cancelled") for job in server.jobs.ids)


@pytest.mark.parametrize("mode", MODES)
def test_stop_when_is_asked_between_rounds(mode: str, server: ModelServer, edge_of: Any) -> None:
    """Jobs of one request each: the first answer decides, and the other jobs are cancelled."""
    server.jobs.complete_next()
    for _ in range(7):
        server.jobs.hold_next()
    edge = edge_of(api=BatchAPI(poll=0.01, max_requests=1), stop_when=lambda entries: bool(entries))
    assert len(run(edge, {"xs": WORDS}, mode)["ys"]) == 1
    statuses = [server.jobs.status(job) for job in server.jobs.ids]
    assert statuses.count("completed") == 1
    assert set(statuses) <= {"completed", "cancelled"}


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_is_checked_before_submission(mode: str, server: ModelServer, edge_of: Any) -> None:
    """About 200 input tokens a request: 4 of 8 fit."""
    edge = edge_of(on_error="collect", budget=Budget(tokens=500))
    ys = run(edge, {"xs": WORDS}, mode)["ys"]
    refused = [entry for entry in ys if is_item_error(entry)]
    assert 0 < len(refused) < 8
    assert {entry["type"] for entry in refused} == {"mahsm.errors.BudgetExceeded"}
    assert len(server.bill) == 8 - len(refused)


@pytest.mark.parametrize(
    "server", [lambda call: Reply({"answer": "x"}, usage=(1000, 5))], indirect=True, ids=["long"]
)
def test_a_spent_budget_begins_no_further_round(server: ModelServer, edge_of: Any) -> None:
    with pytest.raises(BudgetExceeded):
        edge_of(Twice(), budget=Budget(tokens=7_000)).invoke({"xs": WORDS})
    assert len(server.bill) == 8


# What cannot be batched.


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"timeout": 5.0}, "deadline="),
        ({"rate_limit": {"rps": 5, "provider": "batches"}}, "max_enqueued_tokens"),
        ({"executor": "process"}, "collected in one process"),
        ({"batch_api": 3}, "expected True, or BatchAPI"),
    ],
    ids=str,
)
def test_options_of_ordinary_calls_are_refused(options: Any, why: str, edge_of: Any) -> None:
    with pytest.raises(EdgeError, match=why):
        edge_of(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"poll": 0},
        {"window": "soon"},
        {"max_requests": 0},
        {"max_enqueued_tokens": -1},
        {"wait": "x"},
        {"on_expired": "x"},
        {"linger": -1},
    ],
    ids=str,
)
def test_invalid_options_are_refused(options: Any) -> None:
    with pytest.raises(EdgeError, match=next(iter(options))):
        BatchAPI(**options)


@pytest.mark.parametrize("mode", MODES)
def test_models_without_a_batch_api_are_refused(mode: str, server: ModelServer, edge_of: Any) -> None:
    for lm, why in (
        (FakeLM({"answer": "x"}), "engine of its own"),
        (server.lm("groq/llama"), "no batch API of groq"),
        (server.lm("openai/gpt-4o-mini", headers={"a": "b"}), "headers"),
        (server.lm("nobody/model"), "unknown to dspy.lm15"),
    ):
        with dspy.context(lm=lm), pytest.raises(EdgeError, match=why):
            run(edge_of(), {"xs": WORDS}, mode)
    assert not server.calls


@pytest.mark.parametrize("mode", MODES)
def test_models_of_langchain_are_refused(mode: str, edge_of: Any) -> None:
    model = FakeChatModel("hello")
    with pytest.raises(EdgeError, match="LangChain"):
        run(edge_of(lambda state: {"answer": model.invoke(state["item"])}), {"xs": WORDS}, mode)
    assert not model.calls


@pytest.mark.parametrize("server", [lambda call: Reply("hello")], indirect=True, ids=["hello"])
@pytest.mark.parametrize("mode", MODES)
def test_a_model_that_is_called_as_an_object_is_refused(mode: str, server: ModelServer, edge_of: Any) -> None:
    own = server.lm("openai/gpt-4o-mini")
    with pytest.raises(EdgeError, match="called as an object of its own"):
        run(edge_of(lambda state: {"answer": own(state["item"])[0]}), {"xs": ["a"]}, mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_model_that_is_refused_is_named_where_errors_are_collected(mode: str, edge_of: Any) -> None:
    with dspy.context(lm=FakeLM({"answer": "x"})):
        ys = run(edge_of(on_error="collect"), {"xs": WORDS}, mode)["ys"]
    assert all("engine of its own" in entry["message"] for entry in ys)


def test_a_target_without_models_is_refused(edge_of: Any) -> None:
    with pytest.raises(EdgeError, match="no item called a model of DSPy"):
        edge_of(lambda state: {"answer": state["item"]}).invoke({"xs": WORDS})


def test_an_interrupt_needs_a_checkpointer(edge_of: Any) -> None:
    with pytest.raises(EdgeError, match="needs a checkpointer"):
        edge_of(api=BatchAPI(wait="interrupt")).invoke({"xs": WORDS})


def test_an_edge_inside_collects_where_the_edge_around_it_does(server: ModelServer, edge_of: Any) -> None:
    inner = vmap(
        dspy.Predict("item -> answer"),
        batch_key="words",
        out_key="answer",
        result="answer",
        item_to_state=lambda word: {"item": word},
        batch_api=True,
    )
    edge = edge_of(inner, item_to_state=lambda word: {"words": [word]})
    assert edge.invoke({"xs": WORDS})["ys"] == [[answer] for answer in ANSWERS]
    assert len(server.jobs.ids) == 1


class Said(TypedDict, total=False):
    item: str
    answer: str


def test_items_that_ask_the_user_are_refused(edge_of: Any) -> None:
    ask = dspy.Predict("item -> answer")

    def asks(state: Said) -> Any:
        return {"answer": ask(item=state["item"]).answer + interrupt("Is it?")}

    item = StateGraph(Said).add_node(asks).add_edge("__start__", "asks").compile()
    edge = edge_of(item)
    graph = connect(StateGraph(DictState), "__start__", edge, "__end__").compile(checkpointer=InMemorySaver())
    with pytest.raises(EdgeError, match=r"interrupt\(\), but 8 items share a task.*Leave batch_api= out"):
        graph.invoke({"xs": WORDS}, thread())


@pytest.mark.parametrize("mode", MODES)
def test_items_that_are_all_in_the_cache_need_no_model(mode: str, server: ModelServer, edge_of: Any) -> None:
    edge = edge_of(cache=InMemoryCache())
    assert run(edge, {"xs": WORDS}, mode)["ys"] == ANSWERS
    assert run(edge, {"xs": WORDS}, mode)["ys"] == ANSWERS
    assert len(server.bill) == 8


@pytest.mark.parametrize("mode", MODES)
def test_items_that_fail_before_they_call_a_model_are_collected(mode: str, edge_of: Any) -> None:
    def fails(state: Any) -> Any:
        raise ValueError("on purpose")

    ys = run(edge_of(fails, on_error="collect"), {"xs": WORDS}, mode)["ys"]
    assert [entry["message"] for entry in ys] == ["on purpose"] * 8
