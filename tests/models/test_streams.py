"""Streams, and awaited calls, of models that do not stream or have no async version."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import dspy
import pytest

from mahsm import models, usage
from mahsm.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Blocking(dspy.BaseLM):
    """A language model with a blocking method only."""

    def forward(self, prompt: Any = None, messages: Any = None, **options: Any) -> Any:
        message = SimpleNamespace(content="one two", tool_calls=None, reasoning_content=None)
        choice = SimpleNamespace(message=message, finish_reason="stop", logprobs=None)
        self.thread = threading.current_thread()
        return SimpleNamespace(
            choices=[choice], usage={"prompt_tokens": 3, "completion_tokens": 2}, model=self.model
        )


class Awaited(Blocking):
    async def aforward(self, *prompt: Any, **options: Any) -> Any:
        return self.forward(*prompt, **options)


@pytest.mark.parametrize("kind", [Blocking, Awaited])
def test_the_stream_of_a_model_that_does_not_stream_is_one_part(kind: Any) -> None:
    stream = models.stream(kind("own/m"), "q")
    assert list(stream) == ["one two"]
    assert stream.response.usage.tokens == 5


def test_a_model_that_only_blocks_is_awaited_in_a_thread() -> None:
    lm: Any = Blocking("own/m")
    with usage() as used:
        assert str(asyncio.run(models.acall(lm, "q"))) == "one two"
    assert lm.thread is not threading.current_thread()
    assert (used.calls, used.tokens) == (1, 5)


def test_a_stream_has_no_output() -> None:
    with pytest.raises(ModelError, match="a stream has no output="):
        models.stream("openai/m", "q", output=int)
