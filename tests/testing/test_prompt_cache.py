"""`PromptCache`: cached tokens of the model server."""

import threading
from typing import Any

import openai
import pytest

from mahsm.testing import Call, Clock, ModelServer, PromptCache, Reply
from tests.testing.batches import anthropic_client, ask_batch, line, openai_client, params, results, submit

LONG = "word " * 2_000
"""2,500 tokens."""


def ask(client: Any, text: str, **options: Any) -> tuple[int, int]:
    """The input tokens and the cached ones of a request to the Responses API."""
    usage = client.responses.create(**{"model": "gpt-4o-mini", "input": text, **options}).usage
    return usage.input_tokens, usage.input_tokens_details.cached_tokens


def test_a_prefix_that_was_answered_before_is_cached_in_blocks() -> None:
    with ModelServer("yes", prompt_cache=PromptCache()) as server, openai_client(server) as client:
        assert ask(client, f"{LONG}a")[1] == 0
        total, cached = ask(client, f"{LONG}b")
        assert (cached % 128, total - 256 < cached < total) == (0, True)
        assert ask(client, f"x{LONG}b")[1] == 0, "the beginning differs"
        assert ask(client, f"{LONG}b", model="gpt-4o")[1] == 0, "the model differs"


def test_short_prompts_are_not_cached() -> None:
    with ModelServer("yes", prompt_cache=PromptCache()) as server, openai_client(server) as client:
        assert [ask(client, "word " * 800)[1] for _ in range(2)] == [0, 0]
        assert [ask(client, "word " * 850)[1] for _ in range(2)] == [0, 1024]


def test_nothing_is_cached_without_a_cache() -> None:
    messages: Any = [{"role": "user", "content": LONG}]
    with ModelServer("yes") as server, openai_client(server) as client:
        assert [ask(client, LONG)[1] for _ in range(2)] == [0, 0]
        answer = client.chat.completions.create(model="gpt-4o-mini", messages=messages)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is None


def test_the_chat_api_has_cached_tokens_also_in_a_stream() -> None:
    asked: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": LONG}]}
    with ModelServer("yes", prompt_cache=PromptCache()) as server, openai_client(server) as client:
        first = client.chat.completions.create(**asked).usage
        options = {"include_usage": True}
        *_, last = client.chat.completions.create(**asked, stream=True, stream_options=options)
    assert first is not None
    assert first.prompt_tokens_details is not None
    assert first.prompt_tokens_details.cached_tokens == 0
    assert last.usage.prompt_tokens_details.cached_tokens > 2_000


def test_a_prefix_is_there_once_it_is_answered_not_when_it_is_asked() -> None:
    both = threading.Barrier(2)

    def together(call: Call) -> str:
        if len(server.calls) <= 2:
            both.wait(60)
        return "yes"

    cached: list[int] = []
    with ModelServer(together, prompt_cache=PromptCache()) as server, openai_client(server) as client:
        threads = [threading.Thread(target=lambda: cached.append(ask(client, LONG)[1])) for _ in range(2)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert cached == [0, 0]
        assert ask(client, LONG)[1] > 2_000


def test_errors_are_not_cached() -> None:
    server = ModelServer([Reply.failed(500), "yes"], prompt_cache=PromptCache())
    with server, openai_client(server) as client:
        with pytest.raises(openai.InternalServerError):
            ask(client, LONG)
        assert ask(client, LONG)[1] == 0


def test_a_prefix_is_dropped_unless_it_is_read_again() -> None:
    clock = Clock()
    cache = PromptCache(ttl=100, clock=lambda: clock.now)
    with ModelServer("yes", prompt_cache=cache) as server, openai_client(server) as client:
        hits: list[bool] = []
        for seconds in (0, 90, 90, 101):
            clock.now += seconds
            hits.append(ask(client, LONG)[1] > 0)
    assert hits == [False, True, True, False]


def test_cached_tokens_are_never_more_than_the_usage_says() -> None:
    server = ModelServer(Reply("yes", usage=(300, 1)), prompt_cache=PromptCache())
    with server, openai_client(server) as client:
        assert [ask(client, LONG) for _ in range(2)] == [(300, 0), (300, 300)]


@pytest.mark.parametrize("batches", [True, False])
def test_requests_of_a_job_are_cached_one_after_the_other(batches: bool) -> None:
    cache = PromptCache(batches=batches)
    with ModelServer("yes", prompt_cache=cache) as server, openai_client(server) as client:
        job = client.batches.retrieve(submit(client, [line(id, input=LONG + id) for id in "abc"]))
        usages = {
            id: one["response"]["body"]["usage"] for id, one in results(client, job.output_file_id).items()
        }
    hits = [usages[id]["input_tokens_details"]["cached_tokens"] > 0 for id in "abc"]
    assert hits == ([False, True, True] if batches else [False] * 3)


# Anthropic's API: only what is marked.


def block(text: str, mark: bool = False) -> dict[str, Any]:
    return {"type": "text", "text": text} | ({"cache_control": {"type": "ephemeral"}} if mark else {})


def usage(client: Any, text: str, **more: Any) -> tuple[int, int, int]:
    """The input tokens of a request that are not cached, those written, and those read."""
    found = client.post("/messages", json=params(text, **more)).json()["usage"]
    return (
        found["input_tokens"],
        found["cache_creation_input_tokens"],
        found["cache_read_input_tokens"],
    )


def test_a_marked_prefix_is_written_and_then_read() -> None:
    system = [block(LONG, mark=True)]
    with ModelServer("yes", prompt_cache=PromptCache()) as server, anthropic_client(server) as client:
        rest, written, read = usage(client, "a", system=system)
        assert (written > 2_000, read, rest < 100) == (True, 0, True)
        assert usage(client, "b", system=system) == (rest, 0, written)
    assert [(one.cached_tokens, one.written_tokens) for one in server.bill] == [(0, written), (written, 0)]


def test_a_prefix_without_a_mark_is_not_cached() -> None:
    with ModelServer("yes", prompt_cache=PromptCache()) as server, anthropic_client(server) as client:
        for _ in range(2):
            assert usage(client, "a", system=LONG)[1:] == (0, 0)
        assert usage(client, "a", system=[block("short", mark=True)])[1:] == (0, 0)


def test_a_conversation_reads_what_was_marked_before() -> None:
    with ModelServer("yes", prompt_cache=PromptCache()) as server, anthropic_client(server) as client:
        said = [{"role": "user", "content": [block(LONG, mark=True)]}]
        written = usage(client, "", messages=said)[1]
        said = [
            {"role": "user", "content": [block(LONG)]},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": [block(LONG, mark=True)]},
        ]
        _, more, read = usage(client, "", messages=said)
    assert (read, more > 2_000) == (written, True)


def test_one_mark_for_the_whole_request() -> None:
    whole = {"system": LONG, "cache_control": {"type": "ephemeral"}}
    with ModelServer("yes", prompt_cache=PromptCache()) as server, anthropic_client(server) as client:
        assert [usage(client, "a", **whole)[2] > 2_000 for _ in range(2)] == [False, True]


def test_a_job_of_anthropics_api_reads_from_the_cache() -> None:
    with ModelServer("yes", prompt_cache=PromptCache()) as server, anthropic_client(server) as client:
        ask_batch(client, "a", "b", system=[block(LONG, mark=True)])
        assert [one.cached_tokens > 2_000 for one in server.bill] == [False, True]


@pytest.mark.parametrize("name", ["minimum", "block", "ttl"])
def test_wrong_arguments(name: str) -> None:
    wrong: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match=f"PromptCache: {name}=0; expected a number > 0"):
        PromptCache(**wrong)
