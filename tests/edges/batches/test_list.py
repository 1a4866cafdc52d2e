"""The provider's list of jobs, in which a job is looked for, has pages."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import dspy
import pytest
from dspy.lm15 import Config, Message, Request

from mahsm._batches.client import Client, Sent
from mahsm._batches.requests import Endpoint
from mahsm.testing import BatchJobs, ModelServer
from mahsm.testing._pages import page

MODELS = [("openai", "gpt-4o-mini"), ("anthropic", "claude-haiku-4-5-20251001")]
LISTS = ("mahsm.testing._openai_batches.page", "mahsm.testing._anthropic_batches.page")


def sent(number: int, at: float) -> Sent:
    return Sent(f"mahsm run {number}", 7 + number, 1, at)


async def found(server: ModelServer, name: tuple[str, str], others: int, at: float) -> list[Any]:
    """Submit a job and others, and return the jobs that may be the first one, if announced at a time."""
    provider, model = name
    client = Client(Endpoint(provider, model, server.base_url, "test"))
    request = Request(model=model, messages=(Message.user("Hello"),), config=Config(max_tokens=10))
    try:
        for number in range(1 + others):
            await client.submit([request], sent(number, at), "24h")
        return [info.id for info in await client.find(sent(0, at), known=[])]
    finally:
        await client.aclose()


def looked(server: ModelServer) -> int:
    """Return the number of pages that were asked for."""
    for count in range(1, 100):
        try:
            server.jobs.wait_for("list", count, timeout=0)
        except TimeoutError:
            return count - 1
    raise AssertionError("the list has no end")


@pytest.mark.parametrize("name", MODELS, ids=str)
def test_a_job_is_found_behind_the_first_page(name: tuple[str, str]) -> None:
    with ModelServer("yes", jobs=BatchJobs()) as server:
        ids = asyncio.run(found(server, name, 120, time.time()))
        assert server.jobs.ids[0] in ids


@pytest.mark.parametrize("name", MODELS, ids=str)
def test_a_page_with_fewer_jobs_than_asked_for_is_not_the_last(
    name: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(ids: Any, items: Any, query: Mapping[str, str], **given: Any) -> Any:
        return page(ids, items, {**query, "limit": "2"}, **given)

    for one in LISTS:
        monkeypatch.setattr(one, short)
    with ModelServer("yes", jobs=BatchJobs()) as server:
        ids = asyncio.run(found(server, name, 4, time.time()))
        assert server.jobs.ids[0] in ids


def test_a_job_is_found_behind_one_that_was_taken_for_it(
    server: ModelServer, edge_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a submission is lost, and a job as large is submitted before the first look."""
    find = Client.find

    async def late(self: Client, sent: Sent, **given: Any) -> Any:
        if len(server.jobs.ids) == 1:
            text = Message.user("[[ ## item ## ]]\nother")
            other = Request(model="claude", messages=(text,), config=Config(max_tokens=10))
            await self.submit([other], Sent("another", 1, 1, sent.at), "24h")
        return await find(self, sent, **given)

    monkeypatch.setattr(Client, "find", late)
    server.jobs.lose("submit")
    with dspy.context(lm=server.lm("/".join(MODELS[1]), max_tokens=100)):
        assert edge_of().invoke({"xs": ["word"]})["ys"] == ["WORD"]
    assert len(server.jobs.ids) == 2


@pytest.mark.parametrize("name", MODELS, ids=str)
def test_pages_of_jobs_from_before_the_announcement_are_not_read(name: tuple[str, str]) -> None:
    with ModelServer("yes", jobs=BatchJobs()) as server:
        asyncio.run(found(server, name, 110, time.time() + 3_600))
        assert looked(server) == 1
