"""`dspy_node(prompt_prefix=)`: a text that comes first in all prompts of a module."""

import asyncio
import json
from typing import Any

import dspy
import pytest
from dspy import lm15

from mahsm import dspy_node, usage, vmap
from mahsm.errors import NodeError
from mahsm.testing import ModelServer, PromptCache
from tests.helpers import MODES, graph_of, run

BOOK = "The handbook says so. " * 400
ASK = dspy.Predict("item -> answer")


def asks(**options: Any) -> Any:
    return dspy_node(ASK, **{"prompt_prefix": BOOK, "name": "ask", **options})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("module", [dspy.Predict, dspy.ChainOfThought])
def test_it_comes_first_in_the_system_prompt(module: Any, mode: str) -> None:
    node = asks()
    node = dspy_node(module("item -> answer"), prompt_prefix=BOOK)
    with ModelServer({"answer": "yes", "reasoning": "so"}) as server, dspy.context(lm=server.lm()):
        assert run(node, {"item": "why?"}, mode)["answer"] == "yes"
    system, user = server.calls[0].messages
    assert system["content"].startswith(f"{BOOK}\n\nYour input fields are:")
    assert BOOK not in user["content"]


def test_it_may_come_from_the_state() -> None:
    ask = asks(prompt_prefix=lambda state: state["bias"])
    edge = vmap(ask, batch_key="xs", out_key="ys", result="answer")
    with ModelServer({"answer": "yes"}) as server, dspy.context(lm=server.lm()):
        graph_of(edge).invoke({"xs": ["a?", "b?"], "bias": "Be brief."})  # type: ignore[arg-type]
    assert all(call.messages[0]["content"].startswith("Be brief.\n\n") for call in server.calls)


def test_an_empty_one_changes_nothing() -> None:
    with ModelServer({"answer": "yes"}) as server, dspy.context(lm=server.lm()):
        asks(prompt_prefix=lambda state: "").invoke({"item": "a?"})
        dspy_node(ASK).invoke({"item": "a?"})
    assert server.calls[0].messages == server.calls[1].messages


def test_other_code_has_its_own_prompts() -> None:
    with ModelServer({"answer": "yes"}) as server, dspy.context(lm=server.lm()):
        asks().invoke({"item": "a?"})
        ASK(item="a?")
    assert [BOOK in call.messages[0]["content"] for call in server.calls] == [True, False]


class Direct(dspy.Module):
    """Calls its language model in each of the ways that there are."""

    def __init__(self, messages: Any) -> None:
        super().__init__()
        self.messages = messages

    def forward(self, item: str) -> dspy.Prediction:
        lm = dspy.settings.lm
        lm(item)
        with pytest.warns(DeprecationWarning, match="OpenAI-style"):
            lm(messages=self.messages)
        lm(lm15.Request(model=lm.model, system="Be brief.", messages=(lm15.Message.user(item),)))
        lm(request=lm15.Request(model=lm.model, messages=(lm15.Message.user(item),)))
        return dspy.Prediction(answer=item)


def test_direct_calls_have_it_too() -> None:
    own = [{"role": "user", "content": [{"type": "text", "text": "why?"}]}]
    before = json.loads(json.dumps(own))
    with ModelServer("yes") as server, dspy.context(lm=server.lm()):
        dspy_node(Direct(own), prompt_prefix="First.").invoke({"item": "why?"})
    firsts = [call.messages[0]["content"] for call in server.calls]
    assert firsts == ["First.\n\nwhy?", "First.", "First.\n\nBe brief.", "First."]
    assert own == before, "a list of the user's is not changed"


@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize("mode", MODES)
def test_anthropics_cache_is_marked(mode: str, engine: str) -> None:
    server = ModelServer({"answer": "yes"}, prompt_cache=PromptCache())
    with server, dspy.context(lm=server.lm("anthropic/claude-fake", engine=engine)), usage() as used:
        edge = vmap(asks(), batch_key="xs", out_key="ys", warm=1)
        run(edge, {"xs": ["a?", "b?", "c?"]}, mode)
    (system,) = server.calls[0].body["system"]
    assert system["cache_control"] == {"type": "ephemeral"}
    written, *read = server.bill
    assert written.written_tokens > 2_000
    assert [one.cached_tokens for one in read] == [written.written_tokens] * 2
    assert (used.cache_creation_tokens, used.cache_read_tokens) == (
        written.written_tokens,
        2 * written.written_tokens,
    )


def test_a_config_of_the_users_own_stays() -> None:
    own = lm15.CacheConfig(prefix="history", retention="long")
    with ModelServer({"answer": "yes"}) as server:
        lm = server.lm("anthropic/claude-fake", prompt_cache=own)
        with dspy.context(lm=lm):
            asks().invoke({"item": "why?"})
    last = server.calls[0].body["messages"][-1]["content"][-1]
    assert last["cache_control"] == {"type": "ephemeral", "ttl": "1h"}


def test_without_it_anthropics_prompts_have_no_mark() -> None:
    with ModelServer({"answer": "yes"}) as server, dspy.context(lm=server.lm("anthropic/claude-fake")):
        dspy_node(ASK).invoke({"item": "why?"})
    assert "cache_control" not in json.dumps(server.calls[0].body)


def test_threads_of_dspys_have_it() -> None:
    pairs = [(dspy.Predict("item -> answer"), {"item": item}) for item in "ab"]
    node = dspy_node(dspy.Parallel(num_threads=2, disable_progress_bar=True), prompt_prefix=BOOK)
    with ModelServer({"answer": "yes"}) as server, dspy.context(lm=server.lm()):
        node.invoke({"exec_pairs": pairs})
    assert [BOOK in call.messages[0]["content"] for call in server.calls] == [True, True]


def test_streamed_nodes_have_it() -> None:
    node = asks(stream=True)
    with ModelServer({"answer": "yes or no"}) as server, dspy.context(lm=server.lm()):
        assert asyncio.run(node.ainvoke({"item": "why?"})) == {"answer": "yes or no"}
    assert server.calls[0].messages[0]["content"].startswith(BOOK)


@pytest.mark.parametrize("given", ["", 3, ["a"]])
def test_what_is_no_text_is_refused(given: Any) -> None:
    with pytest.raises(NodeError, match=r"prompt_prefix=.*; expected a text, or a function"):
        asks(prompt_prefix=given)


def test_a_function_has_to_return_a_text() -> None:
    with pytest.raises(NodeError, match="prompt_prefix returned None; expected a string"):
        asks(prompt_prefix=lambda state: None).invoke({"item": "why?"})
