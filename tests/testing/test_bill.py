"""`Bill`: what the answers of a model server cost."""

import threading

import httpx
import openai
import pytest

from mahsm.testing import BatchJobs, Bill, Call, ModelServer, PromptCache, Reply
from tests.testing.batches import anthropic_client, ask_batch, line, openai_client, params, submit

PRICES = {"gpt-4o-mini": (1.0, 10.0), "claude-fake": (2.0, 20.0)}
ANSWER = Reply("yes", usage=(1_000, 100))


def test_each_answer_is_charged_by_the_price_of_its_model() -> None:
    bill = Bill(PRICES, default_price=(0.5, 0))
    with ModelServer(ANSWER, bill=bill) as server, openai_client(server) as client:
        for model in ("gpt-4o-mini", "gpt-4o"):
            client.responses.create(model=model, input="?")
    assert [charge.usd for charge in server.bill] == pytest.approx([0.002, 0.0005])
    assert server.bill.usd == pytest.approx(0.0025)
    charge = server.bill[0]
    assert (charge.model, charge.input_tokens, charge.output_tokens) == ("gpt-4o-mini", 1_000, 100)
    assert (charge.job, charge.custom_id) == (None, None)


def test_a_batch_costs_half() -> None:
    with ModelServer(ANSWER, bill=Bill(PRICES)) as server:
        with openai_client(server) as client, anthropic_client(server) as other:
            submit(client, [line("a")])
            ask_batch(other, "b")
        assert [charge.usd for charge in server.bill] == pytest.approx([0.001, 0.002])
    assert [(charge.job, charge.custom_id) for charge in server.bill[:]] == list(
        zip(server.jobs.ids, "ab", strict=True)
    )


def test_cached_tokens_have_the_discount_of_their_provider() -> None:
    bill = Bill(PRICES, openai_read=0.25)
    text, mark = "word " * 2_000, {"cache_control": {"type": "ephemeral"}}
    server = ModelServer(ANSWER, bill=bill, prompt_cache=PromptCache())
    with server, openai_client(server) as client, anthropic_client(server) as other:
        for _ in range(2):
            client.responses.create(model="gpt-4o-mini", input=text)
        for _ in range(2):
            other.post("/messages", json=params(text, **mark))
    assert [charge.usd for charge in bill] == pytest.approx([0.002, 0.00125, 0.0045, 0.0022])


def test_errors_are_free() -> None:
    with ModelServer([Reply.failed(500), "yes"]) as server, openai_client(server) as client:
        with pytest.raises(openai.InternalServerError):
            client.responses.create(model="m", input="?")
        client.responses.create(model="m", input="?")
    assert ([call.status for call in server.calls], len(server.bill)) == ([500, 200], 1)


def test_an_answer_is_charged_though_its_client_is_gone() -> None:
    gone, before = threading.Event(), {*threading.enumerate()}

    def answer(call: Call) -> str:
        assert gone.wait(60)
        return "yes"

    with ModelServer(answer) as server:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.base_url}/chat/completions", json={}, timeout=httpx.Timeout(60, read=0.01))
        gone.set()
        # Other servers have such threads, too, as long as their clients keep connections.
        for thread in {*threading.enumerate()} - before:
            if "process_request_thread" in thread.name:
                thread.join(60)
    assert len(server.bill) == 1


def test_requests_that_were_paid_for_twice() -> None:
    with ModelServer("yes") as server, openai_client(server) as client:
        submit(client, [line("a"), line("b"), line("c", input="a")])
        client.responses.create(model="gpt-4o-mini", input="b", stream=False)
        repeated = server.bill.repeated.values()
    assert {frozenset(charge.custom_id for charge in charges) for charges in repeated} == {
        frozenset({"a", "c"}),
        frozenset({"b", None}),
    }


def test_jobs_are_charged_as_they_are_due_though_they_are_not_looked_at() -> None:
    with ModelServer("yes", jobs=BatchJobs(duration=40)) as server, openai_client(server) as client:
        submit(client, [line(id) for id in "abcd"])
        lengths: list[int] = []
        for _ in range(3):
            lengths.append(len(server.bill))
            server.jobs.advance(20)
    assert lengths == [0, 2, 4]
