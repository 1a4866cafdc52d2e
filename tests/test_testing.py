"""`mahsm.testing`: the model server, against a real client."""

import http.client
import json
import threading
from typing import Any

import dspy
import httpx
import pytest

from mahsm import vmap
from mahsm.testing import Call, ModelServer, Reply


def ask(server: ModelServer, **options: Any) -> Any:
    with dspy.context(lm=server.lm(**options)):
        return dspy.Predict("question -> answer")(question="q").answer


def test_a_text_a_mapping_and_a_reply() -> None:
    with ModelServer("[[ ## answer ## ]]\ntext") as server:
        assert ask(server) == "text"
    with ModelServer({"answer": "mapping"}) as server:
        assert ask(server) == "mapping"
    with ModelServer(Reply({"answer": "reply"})) as server:
        assert ask(server) == "reply"


def test_answers_one_after_the_other_the_last_again_and_again() -> None:
    with ModelServer([{"answer": "1"}, {"answer": "2"}]) as server:
        assert [ask(server) for _ in range(3)] == ["1", "2", "2"]


def test_no_answers_at_all() -> None:
    with pytest.raises(ValueError, match="answers is empty; expected at least one"):
        ModelServer([])


def test_a_function_sees_the_call() -> None:
    with ModelServer(lambda call: {"answer": f"{call.model} {call.field('question')}"}) as server:
        assert ask(server) == "fake q"
    call = server.calls[0]
    assert (call.status, call.messages[0]["role"]) == (200, "system")
    assert call.ended is not None
    assert call.ended >= call.began
    with pytest.raises(KeyError, match="document"):
        call.field("document")


def test_a_field_of_several_paragraphs() -> None:
    text = "[[ ## doc ## ]]\none\n\ntwo\n\n[[ ## question ## ]]\nwhy?\n\nRespond with the corresponding output fields"
    call = Call("fake", [{"role": "user", "content": text}], {}, 0.0)
    assert (call.field("doc"), call.field("question")) == ("one\n\ntwo", "why?")
    assert Call("fake", [], {}, 0.0).text == ""


def test_usage_reaches_the_client() -> None:
    with ModelServer(Reply({"answer": "x"}, usage=(12, 3))) as server:
        lm = server.lm()
        with dspy.context(lm=lm):
            dspy.Predict("question -> answer")(question="q")
    usage = lm.history[-1]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (12, 3, 15)


FAILURES: dict[str, tuple[Reply, str]] = {
    "rate limit": (Reply.rate_limited(retry_after=7), "LMRateLimitError"),
    "server error": (Reply.failed(503), "LMServerError"),
    "no key": (Reply.failed(401), "LMAuthError"),
    "bad request": (Reply.failed(400), "LMInvalidRequestError"),
    "malformed": (Reply.malformed(), "LMProviderError"),
}


@pytest.mark.parametrize(("reply", "name"), FAILURES.values(), ids=FAILURES.keys())
def test_failures_reach_the_client_by_their_type(reply: Reply, name: str) -> None:
    with ModelServer(reply) as server, pytest.raises(dspy.LMError) as caught:
        ask(server)
    assert type(caught.value).__name__ == name
    if reply.retry_after:
        assert getattr(caught.value, "retry_after", None) == 7
    assert len(server.calls) == 1, "the client does not retry unless told so"


def test_an_error_in_a_function_of_answers_is_said() -> None:
    def broken(_: Call) -> str:
        raise LookupError("no such answer")

    with ModelServer(broken) as server, pytest.raises(dspy.LMError, match="no such answer"):
        ask(server)


def test_most_at_once_and_latency() -> None:
    both = threading.Barrier(2)

    def together(_: Call) -> dict[str, str]:
        both.wait(10)
        return {"answer": "x"}

    edge = vmap(dspy.Predict("item -> answer"), batch_key="xs", out_key="ys", result="answer", max_concurrency=2)
    with ModelServer(together, latency=0.001) as server, dspy.context(lm=server.lm()):
        assert edge.invoke({"xs": ["a", "b", "c", "d"]})["ys"] == ["x"] * 4
    assert server.most_at_once == 2


def test_other_paths_are_not_found() -> None:
    with ModelServer() as server:
        connection = http.client.HTTPConnection("127.0.0.1", int(server.base_url.split(":")[2].split("/")[0]))
        connection.request("POST", "/v1/embeddings", body="{}")
        response = connection.getresponse()
        assert (response.status, "only knows" in json.loads(response.read())["error"]["message"]) == (404, True)
        connection.close()


def test_a_client_that_is_gone_is_not_an_error_of_the_server(capfd: pytest.CaptureFixture[str]) -> None:
    with ModelServer("yes", latency=0.05) as server, pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.base_url}/chat/completions", json={"messages": []}, timeout=0.01)
    assert "Traceback" not in capfd.readouterr().err
