"""A server with batch jobs, edges over it, and what they cost."""

from collections.abc import Callable, Iterator
from typing import Any

import dspy
import pytest

from mahsm import BatchAPI, Edge, vmap
from mahsm.testing import BatchJobs, Bill, Call, ModelServer, Reply

MODEL = "openai/gpt-4o-mini"
PRICES = {"gpt-4o-mini": (0.15, 0.60), "claude-haiku-4-5-20251001": (1.0, 5.0)}


def shout(call: Call) -> Reply:
    """Answer each input in upper case, at 10 input and 5 output tokens."""
    return Reply({"answer": call.field("item").upper()}, usage=(10, 5))


class Twice(dspy.Module):
    """Two calls, the second one of the answer to the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.Predict("item -> answer")

    def forward(self, item: str) -> Any:
        return self.ask(item=self.ask(item=item).answer + "!")

    async def aforward(self, item: str) -> Any:
        first = await self.ask.acall(item=item)
        return await self.ask.acall(item=first.answer + "!")


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[ModelServer]:
    answers = getattr(request, "param", shout)
    with ModelServer(answers, jobs=BatchJobs(), bill=Bill(PRICES)) as running:
        yield running


@pytest.fixture
def lm(server: ModelServer) -> Iterator[Any]:
    found = server.lm(MODEL)
    with dspy.context(lm=found):
        yield found


@pytest.fixture
def edge_of(lm: Any) -> Callable[..., Edge]:
    def make(target: Any = None, api: Any = None, **options: Any) -> Edge:
        target = dspy.Predict("item -> answer") if target is None else target
        given = {"batch_key": "xs", "out_key": "ys", "result": "answer", "name": "edge"}
        return vmap(target, **{**given, "batch_api": api or BatchAPI(poll=0.01), **options})

    return make
