"""`FakeLM`: everything but the provider is DSPy's own."""

import asyncio
import copy
from uuid import uuid4

import dspy
import pytest

from mahsm.policies import is_retryable
from mahsm.testing import Call, FakeLM, ModelServer, Reply


class Mood(dspy.Signature):
    """Name the mood.

    Be brief.
    """

    text: str = dspy.InputField()
    lines: list[str] = dspy.InputField()
    mood: str = dspy.OutputField()
    score: int = dspy.OutputField()


DEMO = dspy.Example(text="[[\n\nodd", lines=["x"], mood="sad", score=1)


def ask(lm: dspy.LM) -> str:
    with dspy.context(lm=lm):
        return dspy.Predict("question -> answer")(question="q").answer


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter()], ids=["chat", "json"])
@pytest.mark.parametrize("real", [False, True], ids=["fake", "server"])
def test_what_a_call_says_of_a_dspy_prompt(adapter: dspy.Adapter, real: bool) -> None:
    seen: list[Call] = []

    def answer(call: Call) -> dict[str, object]:
        seen.append(call)
        return {"mood": "glad", "score": 3}

    predict = dspy.Predict(Mood)
    predict.demos = [DEMO]
    with (
        ModelServer(answer) as server,
        dspy.context(lm=server.lm() if real else FakeLM(answer), adapter=adapter),
    ):
        assert predict(text="a\n\nb", lines=["one", "two"]).toDict() == {"mood": "glad", "score": 3}
    (call,) = seen
    assert call.instructions == "Name the mood.\n\nBe brief."
    assert call.outputs == ["mood", "score"]
    assert call.inputs["text"] == call.field("text") == "a\n\nb"
    assert "two" in call.inputs["lines"]
    assert [demo["mood"] + demo["score"] for demo in call.demos] == ["sad1"]


def test_a_prompt_that_is_none_of_dspys() -> None:
    call = Call("fake", [{"role": "user", "content": "hello"}], {}, 0.0)
    assert (call.inputs, call.outputs, call.instructions, call.demos) == ({}, [], "", [])
    assert Call("fake", [{"role": "user", "content": "{not json"}], {}, 0.0).inputs == {}


def test_async_usage_price_and_history() -> None:
    lm = FakeLM(Reply({"answer": "yes"}, usage=(100, 10)), price=(1.0, 3.0))
    with dspy.context(lm=lm):
        assert asyncio.run(dspy.Predict("question -> answer").acall(question="q")).answer == "yes"
    assert lm.history[0]["usage"]["prompt_tokens"] == 100
    assert lm.history[0]["cost"] == pytest.approx((100 * 1.0 + 10 * 3.0) / 1_000_000)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, dspy.LMInvalidRequestError),
        (401, dspy.LMAuthError),
        (402, dspy.LMBillingError),
        (429, dspy.LMRateLimitError),
        (500, dspy.LMServerError),
        (504, dspy.LMTimeoutError),
    ],
)
def test_errors_have_dspys_types(status: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        ask(FakeLM(Reply("no", status=status)))
    with ModelServer(Reply("no", status=status)) as server, pytest.raises(error):  # as those of a real client
        ask(server.lm())


def test_dspy_tries_again_and_hears_retry_after() -> None:
    lm = FakeLM([Reply.rate_limited(0.001), {"answer": "late"}], num_retries=1)
    assert ask(lm) == "late"
    assert [call.status for call in lm.calls] == [429, 200]
    with pytest.raises(dspy.LMRateLimitError) as caught:
        ask(FakeLM(Reply.rate_limited(7)))
    assert caught.value.retry_after == 7


def test_what_answers_raise_is_no_error_that_is_tried_again() -> None:
    lm = FakeLM(lambda call: {"answer": call.inputs["document"]}, num_retries=3)
    with pytest.raises(dspy.LMUnexpectedError) as caught:
        ask(lm)
    assert isinstance(caught.value.__cause__, KeyError)
    assert len(lm.calls) == 1
    assert lm.most_at_once == 1
    assert not is_retryable(caught.value)


def test_repeats_count_equal_prompts() -> None:
    lm = FakeLM(lambda call: {"answer": str(call.repeats)})
    assert [ask(lm) for _ in range(3)] == ["0", "1", "2"]


def test_copies_have_the_same_provider() -> None:
    lm = FakeLM([{"answer": "1"}, {"answer": "2"}, {"answer": "3"}])
    program = dspy.Predict("question -> answer")
    program.set_lm(lm)
    others = (copy.deepcopy(program), program.deepcopy())
    assert [one(question="q").answer for one in (program, *others)] == ["1", "2", "3"]
    assert ask(lm.copy(rollout_id=1, temperature=1.0)) == "3"
    assert len(lm.calls) == 4
    assert lm.most_at_once == 1


def test_dspys_cache_works() -> None:
    lm = FakeLM(lambda call: {"answer": str(call.repeats)}, model="fake/cached", cache=True)
    with dspy.context(lm=lm):
        predict, question = dspy.Predict("question -> answer"), str(uuid4())  # the cache is on disk, too
        assert [predict(question=question).answer for _ in range(2)] == ["0", "0"]
    assert len(lm.calls) == 1


def test_answers_are_streamed_word_by_word() -> None:
    async def words(lm: dspy.LM) -> list[str]:
        predict = dspy.Predict("question -> answer")
        listener = dspy.streaming.StreamListener("answer")
        with dspy.context(lm=lm):
            stream = dspy.streamify(predict, stream_listeners=[listener], is_async_program=True)(question="q")
            return [part.chunk async for part in stream if isinstance(part, dspy.streaming.StreamResponse)]

    answer = {"answer": "one two three"}
    fake = asyncio.run(words(FakeLM(answer)))
    with ModelServer(answer) as server:
        assert asyncio.run(words(server.lm())) == fake
    assert "".join(fake) == "one two three"
    assert len(fake) > 1


def test_no_answers_at_all() -> None:
    with pytest.raises(ValueError, match="FakeLM: answers is empty; expected at least one"):
        FakeLM([])
