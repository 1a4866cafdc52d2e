"""The provider's list of jobs, in which a job is looked for, has pages."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

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


@pytest.mark.parametrize("name", MODELS, ids=str)
def test_pages_of_jobs_from_before_the_announcement_are_not_read(name: tuple[str, str]) -> None:
    with ModelServer("yes", jobs=BatchJobs()) as server:
        asyncio.run(found(server, name, 110, time.time() + 3_600))
        assert looked(server) == 1
