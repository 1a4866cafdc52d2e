"""Figures that cannot be: no NaN, no infinity and no negative number stops a provider's bucket, or gets into
a sum."""

import asyncio
import json
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import dspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

import mahsm
from mahsm import Budget, RateLimit, Retry, limits, vmap
from mahsm._common.answer import Answer
from mahsm._model_calls.langchain import answer_of_message as langchain_answer
from mahsm.errors import EdgeError, LimitError
from mahsm.limits import _registry
from mahsm.limits._bucket import Bucket
from mahsm.policies import Hedge, retry_after
from mahsm.testing import Clock, ModelServer, Reply
from tests.helpers import MODES, chat_model, run_edge

NAN, INF = math.nan, math.inf
NONE = [NAN, INF, -INF, -1, "5", True, 1e300, 10**400, [1]]
ASK = dspy.Predict("item -> answer")
CAP = 600.0


def edge_of(target: Any = lambda state: state["item"], **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "name": "edge", **options})


class TooMany(Exception):
    status_code = 429

    def __init__(self, asked: Any) -> None:
        super().__init__("slow down")
        self.retry_after = asked


# What users give.


@pytest.mark.parametrize("tokens", [*NONE, None])
def test_tokens_that_are_none_are_refused_before_they_are_waited_for(name: str, tokens: Any) -> None:
    with pytest.raises(
        LimitError, match=r"limits.admit: tokens is .*; expected a number of tokens >= 0 and <= 1e\+12"
    ):
        limits.admit(RateLimit(name, tpm=600), tokens=tokens)
    with limits.admit(name, tokens=np.int64(5)):
        pass


@pytest.mark.parametrize("value", NONE)
@pytest.mark.parametrize("figure", ["input_tokens", "output_tokens", "usd"])
def test_reports_of_none_are_refused_and_count_nowhere(figure: str, value: Any) -> None:
    given: dict[str, Any] = {"input_tokens": 7, figure: value}
    with mahsm.budget(tokens=1000) as spent:
        with pytest.raises(
            LimitError, match=rf"limits.report: {figure} is .*; expected a number of (tokens|US dollars) >= 0"
        ):
            limits.report(**given)
        limits.report(input_tokens=7, usd=0.5)
    assert (spent.tokens, spent.usd, spent.answers) == (7, 0.5, 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", NONE)
def test_an_estimate_that_is_none_is_refused(name: str, value: Any, mode: str) -> None:
    edge = edge_of(rate_limit=RateLimit(name, tpm=600, tokens=lambda state: value))
    with pytest.raises(LimitError, match=r"tokens returned .*; expected a number of tokens >= 0"):
        run_edge(edge, [1], mode)


@pytest.mark.parametrize("value", [*NONE, 0])
@pytest.mark.parametrize("argument", ["rps", "rpm", "tpm", "burst", "token_burst", "tokens"])
def test_limits_that_are_none_are_refused(argument: str, value: Any) -> None:
    with pytest.raises(LimitError, match=rf"RateLimit: {argument}=.*; expected a (rate|number)"):
        RateLimit(**{"rps": 1, "tpm": 1, argument: value})


def test_a_rate_whose_wait_is_no_number_is_refused() -> None:
    with pytest.raises(LimitError, match=r"rps=5e-324; expected a rate > 0, from 1e-09 to 1e\+12"):
        RateLimit(rps=5e-324)


@pytest.mark.parametrize("value", [NAN, INF, -INF, -1, "5", True, 1e300])
@pytest.mark.parametrize("argument", ["base", "cap", "timeout", "factor", "share", "retry_after_cap"])
def test_retries_that_are_none_are_refused(argument: str, value: Any) -> None:
    with pytest.raises(EdgeError, match=rf"Retry: .*{argument}=.*; expected"):
        Retry(**{argument: value})


@pytest.mark.parametrize("value", [NAN, INF, -1, "0.5", True])
def test_hedges_and_budgets_that_are_none_are_refused(value: Any) -> None:
    with pytest.raises(EdgeError, match=r"Hedge: percentile=.*; expected a share between 0 and 1"):
        Hedge(percentile=value)
    for bound in ("usd", "tokens", "seconds", "calls"):
        with pytest.raises(EdgeError, match=rf"Budget: {bound}=.*; expected a number > 0"):
            Budget(**{bound: value})
    for prices in ({"m": (value, 1.0)}, {"m": value}):
        with pytest.raises(
            EdgeError,
            match=r"Budget: prices\['m'\]=.*; expected US dollars per million input",
        ):
            Budget(usd=1, prices=prices)
        with (
            pytest.raises(EdgeError, match=r"usage: prices\['m'\]=.*; expected US dollars per million"),
            mahsm.usage(prices),
        ):
            pass


@pytest.mark.parametrize("argument", ["timeout", "deadline"])
@pytest.mark.parametrize("value", [NAN, INF, -1, "5", True, 1e300])
def test_times_that_threads_cannot_wait_for_are_refused(argument: str, value: Any) -> None:
    with pytest.raises(EdgeError, match=rf"{argument}=.*; expected seconds > 0, or None for no limit"):
        edge_of(**{argument: value})


def test_a_wait_that_grows_beyond_all_floats_is_the_cap() -> None:
    assert Retry(base=0, factor=1000, jitter=False).wait(10_000, None) == 0
    assert Retry(base=1, cap=7, factor=1000, jitter=False).wait(10_000, None) == 7


# What clients report.


@given(st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.lists(st.integers()))
def test_an_answer_never_carries_what_is_no_figure(value: Any) -> None:
    answer = Answer("m", value, value, value)
    assert isinstance(answer.input_tokens, int)
    for figure in (
        answer.input_tokens,
        answer.output_tokens,
        answer.tokens,
        answer.usd or 0,
        answer.priced((1, 1)).usd,
    ):
        assert figure is not None
        assert 0 <= figure < INF


def test_figures_that_can_be_read_count() -> None:
    assert Answer("m", "70", 30.0, Decimal("0.5")) == Answer("m", 70, 30, 0.5)  # type: ignore[arg-type]
    assert Answer("m", 10**13, 10**400, 1e13) == Answer("m", 0, 0, None)
    message = AIMessage("x")
    message.usage_metadata = {"input_tokens": None, "output_tokens": -3}  # type: ignore[typeddict-item]
    assert langchain_answer(message, fresh=True, asked={}) == Answer()


def answered(usage: Any, content: str) -> Reply:
    """An answer over HTTP with such a usage, or without any."""
    body: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 1, "model": "fake"}
    body["choices"] = [
        {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    ]
    return Reply(raw=json.dumps(body | ({} if usage is None else {"usage": usage})).encode())


USAGES = [
    None,
    {},
    {"prompt_tokens": -70, "completion_tokens": -30, "total_tokens": -100},
    {"prompt_tokens": NAN, "completion_tokens": INF, "total_tokens": NAN},
    {"prompt_tokens": 10**30, "completion_tokens": 1, "total_tokens": 10**30},
]


class OwnLM(dspy.BaseLM):
    """A client of a user's own, which DSPy does not check: answers with such a usage."""

    def __init__(self, usage: Any) -> None:
        super().__init__("own/model", cache=False)
        self.num_retries = 0
        self._usage = usage or {}

    def forward(self, prompt: Any = None, messages: Any = None, **options: Any) -> Any:
        message = SimpleNamespace(content="[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]")
        choices = [SimpleNamespace(message=message, finish_reason="stop")]
        return SimpleNamespace(choices=choices, usage=self._usage, model="own")

    async def aforward(self, *args: Any, **options: Any) -> Any:
        return self.forward(*args, **options)


@pytest.mark.filterwarnings("ignore:Implementing custom LMs:DeprecationWarning")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("usage", USAGES, ids=str)
def test_a_usage_that_is_none_leaves_bucket_and_budget_in_order(name: str, usage: Any, mode: str) -> None:
    """The answer is there all the same; what nobody knows keeps its estimate, or a next estimate would be
    nothing."""
    ask = edge_of(ASK, result="answer", rate_limit=RateLimit(name, tpm=6e6, tokens=50))
    with dspy.context(lm=OwnLM(usage)), mahsm.usage() as used:
        assert run_edge(ask, ["?"] * 3, mode) == ["yes"] * 3
    assert used.calls == 3
    assert 0 <= used.tokens < INF
    assert 0 < limits.stats()[name].settled_tokens <= 300
    assert 0 < _registry.bucket(name).estimates.corrected(50) <= 100


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("usage", USAGES[:2], ids=str)
def test_a_usage_that_is_absent_over_http(name: str, usage: Any, mode: str) -> None:
    answer = answered(usage, "[[ ## answer ## ]]\nyes\n\n[[ ## completed ## ]]")
    ask = edge_of(ASK, result="answer", rate_limit=RateLimit(name, tpm=6e6, tokens=50))
    with ModelServer(answer) as server, dspy.context(lm=server.lm()):
        assert run_edge(ask, ["?"] * 3, mode) == ["yes"] * 3
    assert limits.stats()[name].settled_tokens == 300


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("usage", USAGES[:3], ids=str)
def test_so_do_those_of_chat_models(name: str, usage: Any, mode: str) -> None:
    with ModelServer(answered(usage, "yes")) as server:
        chain = RunnableLambda(lambda state: str(state["item"])) | chat_model(server.base_url)
        limit = RateLimit(name, tpm=6e6, tokens=50)
        edge = edge_of(chain, result=lambda message: message.content, rate_limit=limit, max_concurrency=1)
        assert run_edge(edge, [1, 2, 3], mode) == ["yes"] * 3
    assert limits.stats()[name].settled_tokens == 300


# Retry-After.

LONG = 1e9


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        (INF, LONG),
        (10**12, LONG),
        (10**400, LONG),
        ("1e12", LONG),
        ("9" * 400, LONG),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONG),
        (-INF, 0),
        (-5, 0),
        (-(10**400), 0),
        ("-5", 0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
        (2, 2),
        ("2.5", 2.5),
        (b"3", 3),
        (NAN, None),
        ("nan", None),
        (True, None),
        ("soon", None),
        ("", None),
        ("Fri, 99 Dec 2024 23:59:59 GMT", None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("Fri, 31 Dec 2024 23:59:59 +99999999999", None),
        (timedelta(seconds=1), None),
    ],
    ids=str,
)
def test_retry_after_is_a_bounded_number_of_seconds(asked: Any, seconds: float | None) -> None:
    assert retry_after(TooMany(asked)) == seconds
    assert Retry(base=0).wait(1, TooMany(asked)) == min(seconds or 0, CAP)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("asked", [10**12, INF, "1e12", "Fri, 31 Dec 9999 23:59:59 GMT", 3600])
def test_a_wait_beyond_the_cap_fails_the_item_with_its_429(name: str, asked: Any, mode: str) -> None:
    """Without a rate limit, and with one; everybody else goes on after the cap."""
    tries: list[int] = []

    def target(state: dict[str, Any]) -> int:
        tries.append(state["item"])
        if len(tries) == 1:
            raise TooMany(asked)
        return state["item"]

    for more in ({}, {"rate_limit": RateLimit(name, rps=1e6, burst=10)}):
        tries.clear()
        edge = edge_of(
            target,
            retry=Retry(attempts=3, retry_after_cap=0.05),
            max_concurrency=1,
            on_error="collect",
            **more,
        )
        ys = run_edge(edge, [0, 1, 2], mode)
        assert ys.pop(tries[0])["type"].endswith("TooMany")
        assert sorted([*ys, tries[0]]) == sorted(tries) == [0, 1, 2]
    assert run_edge(edge_of(rate_limit=name), [1], mode) == [1]
    stats = limits.stats()[name]
    assert stats.paused == pytest.approx(0.05)
    assert stats.wait_max < 5


@pytest.mark.parametrize("mode", MODES)
def test_a_note_says_that_the_provider_asks_for_too_much(mode: str) -> None:
    error = TooMany(3600)

    def target(_: Any) -> None:
        raise error

    for _ in range(3):
        with pytest.raises(TooMany):
            run_edge(edge_of(target, retry=Retry(attempts=3)), [1], mode)
    note = (
        "mahsm: not tried again, since the provider asks to wait for 3600 s; "
        "Retry(retry_after_cap=600) bounds the wait"
    )
    assert error.__notes__.count(note) == 1, "an error that is raised again does not collect them"


@pytest.mark.parametrize("mode", MODES)
def test_over_http_too(name: str, mode: str) -> None:
    answers = [Reply.rate_limited(retry_after=3600), {"answer": "yes"}]
    limit = RateLimit(name, rps=1e6, burst=10, retry=Retry(attempts=3, retry_after_cap=0.01))
    edge = edge_of(ASK, result="answer", rate_limit=limit, max_concurrency=1, on_error="drop")
    with ModelServer(answers) as server, dspy.context(lm=server.lm()):
        assert run_edge(edge, ["a", "b"], mode) == ["yes"]
        assert [call.status for call in server.calls] == [429, 200]
    assert limits.stats()[name].paused == pytest.approx(0.01)


@pytest.mark.parametrize("mode", MODES)
def test_a_deadline_ends_the_wait_of_a_pause(name: str, mode: str) -> None:
    with pytest.raises(TooMany), limits.admit(RateLimit(name, rps=1000)):
        raise TooMany(INF)
    edge = edge_of(rate_limit=name, deadline=0.05, on_error="collect")
    assert "deadline" in run_edge(edge, [1], mode)[0]["message"]


def test_a_pause_is_said_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    limit = RateLimit(name, rps=1000, key="key")
    for _ in range(5):
        with pytest.raises(TooMany), limits.admit(limit, state={"key": "sk-secret"}):
            raise TooMany(0.01)
    with pytest.raises(TooMany), limits.admit(limit, state={"key": "sk-secret"}):
        raise TooMany(3600)
    stats = limits.stats()[f"{name}/sk-secret"]
    # Short ones are not worth a word.
    (said,) = [record for record in caplog.records if record.name == "mahsm.limits"]
    assert said.levelno == logging.WARNING
    assert said.getMessage() == (
        f"{name} asks to wait: it is not called for 600 s. It asked for 3600 s; "
        "Retry(retry_after_cap=...) bounds the wait."
    )
    assert stats.paused < 601
    assert "secret" not in caplog.text


# The bucket, in fake time.


def bucket_here(name: str, limit: RateLimit) -> Bucket:
    """The provider's bucket, which waits by the clock of the test."""
    limits.forget(name)
    _registry.define(name, limit)
    return _registry.bucket(name)


def test_a_pause_lasts_for_ten_minutes_at_most_and_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> float:
        bucket_here("figures", RateLimit(rps=100, burst=100))

        async def refused(asked: Any) -> None:
            with suppress(TooMany):
                async with limits.admit("figures"):
                    await asyncio.sleep(1)
                    raise TooMany(asked)

        async with asyncio.TaskGroup() as group:
            for asked in (3600, INF, 10**12, "1e12", -5, NAN, "Fri, 31 Dec 9999 23:59:59 GMT"):
                group.create_task(refused(asked))
        async with limits.admit("figures"):
            return asyncio.get_running_loop().time()

    assert Clock().run(main()) == pytest.approx(1 + CAP, abs=1e-3)
    assert len([record for record in caplog.records if record.name == "mahsm.limits"]) == 1
    limits.forget("figures")


def test_a_figure_beyond_belief_is_owed_for_ten_minutes_at_most(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> tuple[float, float]:
        bucket = bucket_here("figures", RateLimit(tpm=6000))
        for _ in range(3):
            async with limits.admit("figures", tokens=10):
                limits.report(input_tokens=10**12)
        async with limits.admit("figures", tokens=10):
            return asyncio.get_running_loop().time(), bucket.estimates.corrected(10)

    waited, estimate = Clock().run(main())
    assert waited <= 3 * (CAP + 2)
    assert estimate <= 20, "nor is it learned from"
    assert [record.getMessage() for record in caplog.records if record.name == "mahsm.limits"] == [
        "figures: one call takes 1e+12 tokens, more than the limit allows in ten minutes. It counts as 60100."
    ]
    limits.forget("figures")


figures = st.one_of(
    st.floats(),
    st.integers(-(10**400), 10**400),
    st.floats(0, 1e12),
    st.integers(0, 5000),
    st.sampled_from([True, None, "5", "nan", [], -0.0, 5e-324]),
)
steps = st.lists(
    st.tuples(
        st.sampled_from(["admit", "report", "usd", "refuse", "estimate", "timeout", "answer"]),
        figures,
        st.floats(0, 100),
    ),
    max_size=12,
)


async def waits_for_nothing(_: Any) -> None:
    pass


async def thrown(what: str, value: Any, pause: float) -> None:
    """Throw a figure at the bucket, by one of the ways that there are."""
    if what == "estimate":
        limit = RateLimit("figures", rps=10, tpm=60_000, tokens=lambda _: value)
        edge = edge_of(waits_for_nothing, rate_limit=limit, on_error="collect")
        await edge.ainvoke({"xs": [1]})
        return
    async with limits.admit("figures", tokens=value if what in ("admit", "timeout") else 10):
        await asyncio.sleep(pause)
        if what == "report":
            limits.report(input_tokens=value, output_tokens=3)
        elif what == "usd":
            limits.report(usd=value)
        elif what == "answer":
            # As a client's usage is counted.
            mahsm._model_calls.calls.end_call(Answer("m", value, value, value))
        elif what == "refuse":
            raise TooMany(value)
        elif what == "timeout":
            raise TimeoutError


@settings(max_examples=150, deadline=None)
@given(steps=steps, at_once=st.booleans())
def test_whatever_is_thrown_at_a_bucket_a_later_call_gets_through(steps: list[Any], at_once: bool) -> None:
    async def quietly(step: Any) -> None:
        with suppress(LimitError, TooMany, TimeoutError):
            await thrown(*step)

    async def main() -> float:
        bucket_here("figures", RateLimit(rps=10, tpm=60_000))
        now: Callable[[], float] = asyncio.get_running_loop().time
        if at_once:
            async with asyncio.TaskGroup() as group:
                for step in steps:
                    group.create_task(quietly(step))
        else:
            for step in steps:
                await quietly(step)
        before = now()
        assert before <= len(steps) * (2 * CAP + 200) + 1
        async with limits.admit("figures", tokens=100):
            return now() - before

    assert Clock().run(main()) <= 2 * CAP + 10
    limits.forget("figures")
