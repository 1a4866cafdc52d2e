"""`RateLimit` and the edges and nodes that keep it, over HTTP against a provider that judges."""

import asyncio
import os
import threading
from typing import Any

import dspy
import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import RunnableLambda
from langgraph.types import RetryPolicy

from mahsm import RateLimit, Retry, dspy_node, limits, vmap
from mahsm._waiting import THREAD, run_blocking
from mahsm.errors import LimitError
from mahsm.limits._estimate import FIRST_OUTPUT, Estimator, characters
from mahsm.limits._registry import bucket, define
from mahsm.testing import ModelServer, Provider, Reply
from tests.helpers import MODES, chat_model, graph_of, run, run_edge

ASK = dspy.Predict("item -> answer")


def edge_of(target: Any = lambda state: state["item"], **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", **options})


def ask_edge(**options: Any) -> Any:
    return edge_of(ASK, **{"result": "answer", **options})


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rps": 0}, r"rps=0; expected a rate > 0"),
        ({"rpm": -5}, r"rpm=-5; expected a rate > 0"),
        ({"tpm": float("nan")}, r"tpm=nan; expected a rate > 0"),
        ({"rps": True}, r"rps=True"),
        ({"rps": "50"}, r"rps='50'"),
        ({"rps": 5, "burst": 0.5}, r"burst=0.5; expected a number >= 1"),
        ({"tpm": 5, "token_burst": 0}, r"token_burst=0; expected a number >= 1"),
        ({}, r"has no limit; pass at least one of rps=, rpm= and tpm="),
        ({"tpm": 5, "burst": 3}, r"burst=3 without a rate of requests; also pass rps= or rpm="),
        ({"rps": 5, "token_burst": 3}, r"token_burst=3 without a rate of tokens; also pass tpm="),
        ({"tpm": 5, "tokens": -1}, r"tokens=-1; expected a number > 0, or a function"),
        (
            {"rps": 5, "retry": {"attemps": 3}},
            r"unexpected keyword argument 'attemps'. Expected some of attempts, base",
        ),
        ({"rps": 5, "retry": "often"}, r"retry='often'"),
        ({"rps": 5, "provider": ""}, r"provider=''; expected a name"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RateLimit(**arguments)


def test_the_dict_of_the_arguments(name: str) -> None:
    edge = edge_of(rate_limit={"provider": name, "rps": 1000, "burst": 10, "retry": 2})
    assert run_edge(edge, [1, 2], "sync") == [1, 2]
    assert limits.stats()[name].admitted == 2
    with pytest.raises(
        LimitError, match=r"rate_limit has 'rsp'; expected some of 'provider', 'rps'.* Did you mean 'rps'\?"
    ):
        edge_of(rate_limit={"provider": name, "rsp": 5})
    with pytest.raises(
        LimitError, match=r"rate_limit=5; expected RateLimit\('openai', rps=50\), a dict of that, or a name"
    ):
        edge_of(rate_limit=5)


@pytest.mark.parametrize(
    "retry", [3, {"attempts": 3, "base": 0}, Retry(attempts=3, base=0), RetryPolicy(max_attempts=3)]
)
def test_a_limit_says_what_is_tried_again(name: str, retry: Any) -> None:
    assert RateLimit(name, rps=1, retry=retry).retry_policy.attempts == 3  # type: ignore[union-attr]


def test_the_edges_own_retry_comes_first(name: str) -> None:
    calls: list[int] = []

    def fails(state: dict[str, Any]) -> None:
        calls.append(state["item"])
        raise ConnectionError("down")

    limit = RateLimit(name, rps=1000, retry=Retry(attempts=3, base=0))
    with pytest.raises(ConnectionError):
        run_edge(edge_of(fails, rate_limit=limit), [1], "sync")
    assert len(calls) == 3
    with pytest.raises(ConnectionError):
        run_edge(edge_of(fails, rate_limit=limit, retry=Retry(attempts=2, base=0)), [1], "sync")
    assert len(calls) == 5


def test_two_limits_of_one_provider_contradict_each_other(name: str) -> None:
    edge_of(rate_limit=RateLimit(name, rps=50, burst=10))
    edge_of(rate_limit=RateLimit(name, rps=50, burst=10, retry=5))
    with pytest.raises(
        LimitError, match=r"RateLimit\(rps=50, burst=10\) here, and RateLimit\(rps=60\) there.*limits.forget"
    ):
        edge_of(rate_limit=RateLimit(name, rps=60))
    limits.forget(name)
    edge_of(rate_limit=RateLimit(name, rps=60))


@pytest.mark.parametrize("mode", MODES)
def test_the_name_of_a_provider(name: str, mode: str) -> None:
    with pytest.raises(
        LimitError,
        match=rf"no limit is defined for {name!r}; there .*Pass RateLimit\({name!r}, rps=...\) once",
    ):
        run_edge(edge_of(rate_limit=name), [1], mode)
    define(name, RateLimit(rps=1000))
    assert run_edge(edge_of(rate_limit=name), [1], mode) == [1]


def test_tokens_of_a_plain_function_have_to_be_told(name: str) -> None:
    with pytest.raises(
        LimitError, match=r"tpm=600, but lambda is a plain function.*Pass RateLimit\(..., tokens=1_000\)"
    ):
        edge_of(rate_limit=RateLimit(name, tpm=600))
    edge_of(rate_limit=RateLimit(name, tpm=600, tokens=10))
    edge_of(ASK, rate_limit=RateLimit(name, tpm=600))
    edge_of(
        PromptTemplate.from_template("{item}") | FakeListChatModel(responses=["x"]),
        rate_limit=RateLimit(name, tpm=600),
    )
    with pytest.raises(LimitError, match="plain function"):
        edge_of(RunnableLambda(lambda state: state), rate_limit=RateLimit(name, tpm=600))


@pytest.mark.parametrize("mode", MODES)
def test_an_estimate_that_is_no_number(name: str, mode: str) -> None:
    limit = RateLimit(name, tpm=600, tokens=lambda state: state["item"])
    with pytest.raises(LimitError, match=r"tokens returned -3; expected a number of tokens >= 0"):
        run_edge(edge_of(rate_limit=limit), [-3], mode)
    with pytest.raises(LimitError, match=r"tokens returned 'many'"):
        run_edge(edge_of(rate_limit=limit), ["many"], mode)


# The provider.


@pytest.mark.parametrize("mode", MODES)
def test_the_provider_is_that_of_the_language_model(mode: str) -> None:
    limits.forget("openai")
    with ModelServer({"answer": "yes"}) as server:
        with dspy.context(lm=server.lm("openai/fake")):
            assert run_edge(ask_edge(rate_limit=RateLimit(rps=1000)), [1], mode) == ["yes"]
        assert limits.stats()["openai"].admitted == 1
        limits.forget("openai")
        own = dspy.Predict("item -> answer")
        own.lm = server.lm("openai/own")
        assert run_edge(edge_of(own, result="answer", rate_limit=RateLimit(rps=1000)), [1, 2], mode) == [
            "yes",
            "yes",
        ]
        assert limits.stats()["openai"].admitted == 2
        limits.forget("openai")


@pytest.mark.parametrize("mode", MODES)
def test_no_provider_to_be_found(mode: str) -> None:
    with pytest.raises(
        LimitError,
        match=r"RateLimit has no provider.*Pass RateLimit\('openai', ...\), or configure a dspy.LM",
    ):
        run_edge(ask_edge(rate_limit=RateLimit(rps=1000)), [1], mode)


def test_several_providers() -> None:
    class Two(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = dspy.Predict("item -> answer"), dspy.Predict("item -> answer")
            self.first.lm, self.second.lm = (
                dspy.LM("openai/fake", api_key="x"),
                dspy.LM("anthropic/fake", api_key="x"),
            )

        def forward(self, item: str) -> Any:
            raise AssertionError

    with pytest.raises(LimitError, match="Two has language models of several providers: anthropic, openai"):
        run_edge(edge_of(Two(), rate_limit=RateLimit(rps=1000)), [1], "sync")


# One bucket for all.


@pytest.mark.parametrize("mode", MODES)
def test_keys_have_buckets_of_their_own(name: str, mode: str) -> None:
    edge = edge_of(rate_limit=RateLimit(name, rps=0.001, burst=3, key="item"), max_concurrency=2)
    assert run_edge(edge, ["a", "b", "c"] * 3, mode) == ["a", "b", "c"] * 3
    assert {key: limits.stats()[f"{name}/{key}"].admitted for key in "abc"} == {"a": 3, "b": 3, "c": 3}
    limits.forget(name)
    by_parity = edge_of(rate_limit=RateLimit(name, rps=0.001, burst=2, key=lambda state: state["item"] % 2))
    assert run_edge(by_parity, [1, 2, 3, 4], mode) == [1, 2, 3, 4]
    limits.forget(name)
    with pytest.raises(
        LimitError, match=r"key returned \[1\], which is not hashable; expected a string or a number"
    ):
        run_edge(edge_of(rate_limit=RateLimit(name, rps=5, key=lambda state: [1])), [1], mode)
    limits.forget(name)
    with pytest.raises(LimitError, match="key='model', but the state has only 'xs', 'item'"):
        run_edge(edge_of(rate_limit=RateLimit(name, rps=5, key="model")), [1], mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_slow_key_does_not_hold_up_the_others(name: str, mode: str) -> None:
    """Twenty items of a key that has nothing left come first; the others pass them by."""
    done: list[str] = []

    def target(state: dict[str, Any]) -> str:
        done.append(state["item"])
        return state["item"]

    limit = RateLimit(name, rps=0.001, burst=1, key="item")
    edge = edge_of(target, rate_limit=limit, max_concurrency=2, deadline=2.0, on_error="collect")
    define(name, limit)
    assert run_blocking(bucket(name, "slow").acquire(THREAD)) is not None
    quick = [f"quick{number}" for number in range(20)]
    ys = run_edge(edge, ["slow"] * 20 + quick, mode)
    assert ys[20:] == quick
    assert sorted(done) == sorted(quick)
    assert all("deadline" in y["message"] for y in ys[:20])


def test_edges_threads_loops_and_nested_graphs_share_a_bucket(name: str) -> None:
    limit = RateLimit(name, rps=100, burst=5)  # three buckets would let 300 a second through
    with Provider(rps=100, burst=25, answer={"answer": "yes"}) as provider, dspy.context(lm=provider.lm()):
        inner = vmap(ASK, batch_key="items", out_key="ys", rate_limit=limit, result="answer", name="inner")
        outer = vmap(inner, batch_key="xs", out_key="ys", item_to_state=lambda x: {"items": x}, name="outer")
        lm = dspy.settings.lm

        def other(mode: str) -> None:
            with dspy.context(lm=lm):
                run_edge(ask_edge(rate_limit=limit), range(20), mode)

        threads = [threading.Thread(target=other, args=(mode,)) for mode in MODES]
        for thread in threads:
            thread.start()
        graph_of(outer).invoke({"xs": [[1, 2, 3, 4]] * 5})
        for thread in threads:
            thread.join()
        assert provider.report().statuses == {200: 60}
    assert limits.stats()[name].admitted == 60


@pytest.mark.parametrize("mode", MODES)
def test_an_edge_around_an_edge_of_the_same_provider_does_not_wait_twice(name: str, mode: str) -> None:
    limit = RateLimit(name, rps=0.001, burst=6)
    inner = vmap(lambda state: state["item"], batch_key="items", out_key="ys", rate_limit=limit, name="inner")
    outer = edge_of(inner, item_to_state=lambda x: {"items": x}, rate_limit=limit, result="ys")
    assert run_edge(outer, [[1, 2], [3], [4, 5, 6]], mode) == [[1, 2], [3], [4, 5, 6]]
    assert limits.stats()[name].admitted == 6


@pytest.mark.parametrize("mode", MODES)
def test_each_attempt_takes_from_the_bucket_again(name: str, mode: str) -> None:
    answers = [Reply.failed(503), {"answer": "yes"}]
    with ModelServer(answers) as server, dspy.context(lm=server.lm()):
        assert run_edge(ask_edge(rate_limit=RateLimit(name, rps=1000), retry=Retry(base=0)), ["?"], mode) == [
            "yes"
        ]
    assert limits.stats()[name].admitted == 2


@pytest.mark.parametrize("mode", MODES)
def test_every_call_of_an_item_waits_in_line(name: str, mode: str) -> None:
    """A module that calls its model three times takes three requests, not one."""

    class Thrice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("item -> answer")

        def forward(self, item: str) -> Any:
            return [self.ask(item=item) for _ in range(3)][-1]

        async def aforward(self, item: str) -> Any:
            return [await self.ask.acall(item=item) for _ in range(3)][-1]

    edge = edge_of(Thrice(), result="answer", rate_limit=RateLimit(name, rps=100, burst=2), max_concurrency=4)
    with Provider(rps=100, burst=12, answer={"answer": "yes"}) as provider, dspy.context(lm=provider.lm()):
        assert run_edge(edge, range(8), mode) == ["yes"] * 8
        assert provider.report().statuses == {200: 24}
    assert limits.stats()[name].admitted == 24


@pytest.mark.parametrize("mode", MODES)
def test_the_slot_is_free_while_a_further_call_waits(name: str, mode: str) -> None:
    """One item's second call waits for a token that another item's call brings back; there is one slot for
    both."""

    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("item -> answer")

        def forward(self, item: str) -> Any:
            return [self.ask(item=item) for _ in range(2)][-1]

    edge = edge_of(
        Twice(),
        result="answer",
        rate_limit=RateLimit(name, rps=100, burst=1),
        max_concurrency=1,
        retry=Retry(),
    )
    with ModelServer({"answer": "yes"}) as server, dspy.context(lm=server.lm()):
        assert run_edge(edge, range(4), mode) == ["yes"] * 4
    assert server.most_at_once == 1


# 429s.


@pytest.mark.parametrize("mode", MODES)
def test_a_429_pauses_the_bucket_for_everyone(name: str, mode: str) -> None:
    answers = [Reply.rate_limited(retry_after=0.2), {"answer": "yes"}]
    edge = ask_edge(rate_limit=RateLimit(name, rps=1000), retry=Retry(base=0))
    with ModelServer(answers) as server, dspy.context(lm=server.lm()):
        assert run_edge(edge, ["?"], mode) == ["yes"]
        stats = limits.stats()[name]
    assert stats.pauses == 1
    assert stats.paused == pytest.approx(0.2, abs=1e-3)
    assert server.calls[1].began - server.calls[0].began >= 0.19


@pytest.mark.parametrize("mode", MODES)
def test_langchain_and_openai_exceptions_pause_it_too(name: str, mode: str) -> None:
    with ModelServer([Reply.rate_limited(retry_after=0.05), "yes"]) as server:
        chain = RunnableLambda(lambda state: str(state["item"])) | chat_model(server.base_url)
        edge = edge_of(
            chain,
            rate_limit=RateLimit(name, rps=1000),
            retry=Retry(base=0),
            result=lambda answer: answer.content,
        )
        assert run_edge(edge, ["?"], mode) == ["yes"]
    assert limits.stats()[name].pauses == 1


# Tokens.


@pytest.mark.parametrize("mode", MODES)
def test_real_use_settles_what_was_reserved(name: str, mode: str) -> None:
    with ModelServer(Reply({"answer": "yes"}, usage=(70, 30))) as server, dspy.context(lm=server.lm()):
        run_edge(ask_edge(rate_limit=RateLimit(name, tpm=60_000)), range(5), mode)
    assert limits.stats()[name].settled_tokens == 500
    assert bucket(name).estimates.mean == 100


@pytest.mark.parametrize("mode", MODES)
def test_langchain_models_settle_it_too(name: str, mode: str) -> None:
    with ModelServer(Reply("yes", usage=(7, 3))) as server:
        model = RunnableLambda(lambda state: str(state["item"])) | chat_model(server.base_url)
        run_edge(edge_of(model, rate_limit=RateLimit(name, tpm=60_000)), range(5), mode)
    assert limits.stats()[name].settled_tokens == 50


@pytest.mark.parametrize("mode", MODES)
def test_a_cached_answer_takes_nothing(name: str, mode: str) -> None:
    ask = edge_of(ASK, result="answer", rate_limit=RateLimit(name, rps=1000, tpm=60_000))
    question = f"cached? {name} {mode} {os.getpid()}"
    with (
        ModelServer(Reply({"answer": "yes"}, usage=(70, 30))) as server,
        dspy.context(lm=server.lm(cache=True)),
    ):
        assert run_edge(ask, [question], mode) == ["yes"]
        assert run_edge(ask, [question], mode) == ["yes"]
    stats = limits.stats()[name]
    assert (len(server.calls), stats.admitted, stats.given_back, stats.settled_tokens) == (1, 1, 1, 100)


@pytest.mark.parametrize("mode", MODES)
def test_an_error_takes_no_tokens_but_a_request(name: str, mode: str) -> None:
    limit = RateLimit(name, rps=1000, tpm=600, token_burst=1000, tokens=400)
    answers = [Reply.failed(500), Reply.failed(500), Reply({"answer": "yes"}, usage=(1, 1))]
    with ModelServer(answers) as server, dspy.context(lm=server.lm()):
        assert run_edge(ask_edge(rate_limit=limit, retry=Retry(base=0)), ["?"], mode) == ["yes"]
    stats = limits.stats()[name]
    assert (stats.admitted, stats.settled_tokens) == (3, 2)


@pytest.mark.parametrize("mode", MODES)
def test_what_nobody_knows_the_use_of_keeps_its_estimate(name: str, mode: str) -> None:
    limit = RateLimit(name, tpm=600_000, tokens=50)
    run_edge(edge_of(rate_limit=limit), [1, 2], mode)
    assert limits.stats()[name].settled_tokens == 200, "an estimate counts twice before one has been settled"

    def reports(state: dict[str, Any]) -> None:
        limits.report(input_tokens=20, output_tokens=5)

    run_edge(edge_of(reports, rate_limit=limit), [1], mode)
    assert limits.stats()[name].settled_tokens == 225
    assert bucket(name).estimates.corrected(50) == 25


@pytest.mark.parametrize("mode", MODES)
def test_a_timeout_keeps_its_estimate(name: str, mode: str) -> None:
    async def slow(_: Any) -> None:
        await asyncio.sleep(60)

    limit = RateLimit(name, tpm=600_000, tokens=50)
    with pytest.raises(TimeoutError):
        run_edge(edge_of(slow, rate_limit=limit, timeout=0.01), [1], mode)
    assert limits.stats()[name].settled_tokens == 100


def test_estimates_learn() -> None:
    estimates = Estimator()
    assert estimates.mean == FIRST_OUTPUT
    assert estimates.of_prompt(400) == 100 + FIRST_OUTPUT
    assert estimates.corrected(100) == 200
    for _ in range(100):
        estimates.learn(100, 50, 10)
    assert estimates.corrected(100) == 50
    assert estimates.of_prompt(400) == 110
    assert estimates.mean == 50


def test_length_of_a_prompt() -> None:
    message = FakeListChatModel(responses=["four"]).invoke("?")
    assert characters({"a": "123", "b": ["45", {"c": "6"}], "n": 7, "m": message}) == 6 + 4


# LangChain's chat models, nodes, and calls that no edge makes.


@pytest.mark.parametrize("mode", MODES)
def test_a_chat_model_takes_from_the_same_bucket(name: str, mode: str) -> None:
    limiter = limits.langchain(RateLimit(name, rps=1000, burst=10, tpm=600_000))
    model = FakeListChatModel(responses=["yes"], rate_limiter=limiter)
    assert run(model, "?", mode).content == "yes"
    assert limits.stats()[name].admitted == 1
    edge = edge_of(RunnableLambda(lambda state: "?") | model, rate_limit=name)
    run_edge(edge, range(3), mode)
    assert limits.stats()[name].admitted == 4, "an item's first call is the one that it waited for"


async def test_a_chat_model_need_not_wait(name: str) -> None:
    limiter = limits.langchain({"provider": name, "rps": 0.001, "burst": 2})
    assert limiter.acquire(blocking=False)
    assert await limiter.aacquire(blocking=False)
    assert not limiter.acquire(blocking=False)
    assert not await limiter.aacquire(blocking=False)


@pytest.mark.parametrize("mode", MODES)
def test_a_dspy_node_waits_too(name: str, mode: str) -> None:
    node = dspy_node(dspy.Predict("xs -> ys"), rate_limit=RateLimit(name, rps=1000, tpm=60_000))
    with ModelServer(Reply({"ys": "yes"}, usage=(7, 3))) as server, dspy.context(lm=server.lm()):
        assert run(node, {"xs": "?"}, mode) == {"ys": "yes"}
        assert run(node, {"xs": "?"}, mode) == {"ys": "yes"}
        inside = edge_of(node, item_to_state=lambda x: {"xs": x}, rate_limit=name)
        run_edge(inside, [1, 2], mode)
    stats = limits.stats()[name]
    assert (stats.admitted, stats.settled_tokens) == (4, 40)


async def test_a_call_that_no_edge_makes(name: str) -> None:
    limit = RateLimit(name, rps=1000, tpm=60_000, key="tenant")
    answers = [Reply({"answer": "yes"}, usage=(7, 3)), Reply.rate_limited(0.01)]
    with ModelServer(answers) as server, dspy.context(lm=server.lm()):
        with limits.admit(limit, tokens=50, state={"tenant": "a"}):
            ASK(item="?")
        with pytest.raises(dspy.LMRateLimitError):
            async with limits.admit(limit, tokens=50, state={"tenant": "a"}):
                await ASK.acall(item="?")
    stats = limits.stats()[f"{name}/a"]
    assert (stats.admitted, stats.settled_tokens, stats.pauses) == (2, 10, 1)
    with pytest.raises(LimitError, match="has no provider"):
        limits.admit(RateLimit(rps=1))
