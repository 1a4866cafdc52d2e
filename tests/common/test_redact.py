"""Secrets: planted wherever they may be quoted, and found nowhere."""

import logging
import time
from typing import Any

import dspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mahsm import parallel, reduce_edge, tracing, vmap
from mahsm._common import redact
from mahsm._common.redact import learn_secret, redacted
from mahsm._common.state import shown
from mahsm.reducers import mean
from mahsm.testing import ModelServer
from tests.helpers import MODES, graph_of, run, thread
from tests.tracing.spans import recorded

SECRETS = [
    ("https://user:PLANTED@host/x", "https://***@host/x"),
    ("postgresql+psycopg://me:PLANTED%40x@db:5432/x", "postgresql+psycopg://***@db:5432/x"),
    ("ftp://me:PLANTED@PLANTED@host", "ftp://***@host"),
    ("http://:PLANTED@[::1]:8/", "http://***@[::1]:8/"),
    ("Authorization: Bearer PLANTED-header", "Authorization: Bearer ***"),
    ("{'Authorization': 'Basic UExBTlRFRDpQTEFOVEVE'}", "{'Authorization': 'Basic ***'}"),
    ("authorization=PLANTED77", "authorization=***"),
    ("sent Bearer PLANTED0123456789abc", "sent Bearer ***"),
    ("sent basic UExBTlRFRDpQTEFOVEVE3w==", "sent basic ***"),
    ("https://x/?key=PLANTED&page=2", "https://x/?key=***&page=2"),
    ("https://x/?a=1&X-Amz-Signature=PLANTED", "https://x/?a=1&X-Amz-Signature=***"),
    ("api_key='PLANTED1'", "api_key='***'"),
    ("{'x-api-key': 'planted', 'n': 2}", "{'x-api-key': '***', 'n': 2}"),
    ('{"password": "planted"}', '{"password": "***"}'),
    ("OPENAI_API_KEY=planted", "OPENAI_API_KEY=***"),
    ("client_secret: PLANTED", "client_secret: ***"),
    ("Set-Cookie: session=PLANTED; Path=/", "Set-Cookie: ***"),
    ("Incorrect API key provided: sk-proj-PLANTED0.", "Incorrect API key provided: sk-***."),
    ("Incorrect API key provided: sk-abcde***********wxyz.", "Incorrect API key provided: sk-***."),
    ("AIzaPLANTED-0123456789abcdef", "AIza***"),
    ("ghp_PLANTED0123456789abcdef", "ghp_***"),
    ("hf_PLANTEDabcdefghijklm", "hf_***"),
    ("xoxb-12-PLANTED", "xoxb-***"),
    ("AKIAPLANTEDEXAMPLE99", "AKIA***"),
    ("eyJhbGciOiJI.eyJPLANTED0.PLANTED", "eyJ***"),
    ("-----BEGIN RSA PRIVATE KEY-----\nPLANTED\n-----END RSA PRIVATE KEY-----", None),
]
PLAIN = [
    "invalid literal for int() with base 10: 'two'",
    "state has no key 'doc'; it has 'docs', 'query'. Pass batch_key='docs'.",
    "password: required",
    "the secret: nothing",
    "max_tokens=100000 is above the limit of 4096 tokens",
    "a basic understanding of JavaScript",
    "Bearer authentication is required",
    "sk-learn-contrib and task-ABC123456 and risk-AVERSE-2024",
    "signature='question -> answer'",
    "https://example.com:8080/a?page=2&sort=asc#x",
    "write to me@example.com at 12:30",
    "api_key=None, secret_key=False",
    "vmap_ask: 3 of 8 items failed, and min_success=0.9 cannot be reached.",
]
WORDS = [
    "a",
    "the",
    "is",
    "of",
    "key",
    "keys",
    "token",
    "tokens",
    "secret",
    "password",
    "Basic",
    "basic",
    "Bearer",
    "bearer",
    "authorization",
    "cookie",
    "api",
    "account",
    "access",
    "private",
    "signature",
    "state",
    "item",
    "vmap_ask",
    "KeyError:",
    "'docs'",
    "[1,2,3]",
    "{'a':1}",
    "12:30",
    "3.14",
    "100%",
    "x=1",
    "n=8",
    "temperature=0.5",
    "me@example.com",
    "https://example.com/a?b=c&d=e",
    "http://localhost:8000/v1",
    "ssh://git@host/repo",
    "C:\\temp",
    "/usr/lib",
    "sk-learn",
    "pk-4",
    "gh",
    "hf_hub",
    "eyJ",
    "AKIA",
    "xoxo",
    "asia-east1",
    "Größe",
    "日本",
    "\n",
    "✓",
]


@pytest.mark.parametrize(("text", "expected"), SECRETS)
def test_what_looks_like_a_secret_is_masked(text: str, expected: str | None) -> None:
    found = redacted(f"failed: {text} (again)") if expected is not None else redacted(text)
    if expected is None:
        assert found == "-----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----"
    elif text.startswith("Set-Cookie"):  # up to the end of the line
        assert found == f"failed: {expected}"
    else:
        assert found == f"failed: {expected} (again)"
    assert redacted(found) == found


@pytest.mark.parametrize("text", PLAIN)
def test_what_does_not_is_not(text: str) -> None:
    assert redacted(text) == text


@given(words=st.lists(st.sampled_from(WORDS)), between=st.sampled_from([" ", ", ", ". ", " - ", "\n"]))
def test_ordinary_text_stays_as_it_is(words: list[str], between: str) -> None:
    text = between.join(words)
    assert redacted(text) == text


@given(text=st.text(alphabet="abcdefghij ABC.,:;!?()", max_size=200))
def test_random_text_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text


@given(
    before=st.lists(st.sampled_from(WORDS)),
    secret=st.sampled_from(
        [text for text, expected in SECRETS if expected is not None and "PLANTED" in text]
    ),
    after=st.lists(st.sampled_from(WORDS)),
)
def test_secrets_in_ordinary_text_are_found(before: list[str], secret: str, after: list[str]) -> None:
    assert "PLANTED" not in redacted(" ".join([*before, secret, *after]))


def test_long_texts_take_no_long_time() -> None:
    evil = [
        "sk-",
        "bearer ",
        "://",
        "a:",
        "key_",
        "eyJ.",
        "a-",
        "api_key=",
        "authorization: ",
        "-----BEGIN PRIVATE KEY-----",
    ]
    began = time.process_time()
    for part in evil:
        redacted(part * (100_000 // len(part)))
    assert time.process_time() - began < 10


def test_what_is_shown_of_values_has_no_secrets() -> None:
    class Client:
        def __repr__(self) -> str:
            return "Client(" + "x" * 30 + ", api_key='" + "PLANTED0" * 20 + "')"

    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no")

    assert shown({"url": "https://me:PLANTED@host"}) == "{'url': 'https://***@host'}"
    assert "PLANTED" not in shown(Client())
    assert "PLANTED" not in shown("sk-" + "PLANTED0" * 5000)
    assert "PLANTED" not in shown(["x" * 20 + " sk-" + "PLANTED0" * 20])
    assert shown(Broken()).startswith("<Broken instance at")
    assert len(shown(Client())) <= 80
    assert shown("a" * 300) == repr("a" * 300)[:38] + "..." + repr("a" * 300)[-39:]


OPTIONS = {
    "vertex_credentials": '{"private_key": "PLANTED-1"}',
    "aws_session_token": "PLANTED-2",
    "azure_ad_token": "PLANTED-3",
    "proxy": "http://u:PLANTED-4@p:1",
    "credentials": "PLANTED-5",
    "cookie": "PLANTED-6",
    "bearer": "PLANTED-7",
    "API_KEY": "PLANTED-8",
    "dsn": "https://PLANTED-9@x",
    "headers": {"x-api-key": "PLANTED-10"},
    "extra_headers": {"Authorization": "Bearer PLANTED-11"},
    "user": "PLANTED-12",
}


def fails(state: dict[str, Any]) -> None:
    raise ConnectionError(
        "Incorrect API key provided: sk-PLANTED-message for https://me:PLANTED-url@x/?key=PLANTED-query, "
        "sent {'Authorization': 'Bearer PLANTED-header'}"
    )


def failures(saver: Any, mode: str, config: Any) -> str:
    """What becomes of errors with secrets in each edge."""
    state = {"xs": ["https://me:PLANTED-item@host"]}
    edges = [
        vmap(fails, batch_key="xs", out_key="ys", on_error="collect", name="fails"),
        parallel(
            {"a": fails},
            on_error="isolate",
            errors_key="errors",
            merge=lambda state, updates: {},
            name="branches",
        ),
    ]
    found = str(run(graph_of(*edges, checkpointer=saver), state, mode, {**thread(), **config}))
    assert found.count("Incorrect API key provided: sk-*** for https://***@x/?key=***, sent") == 2
    failed = run(edges[0], state, mode)["ys"]
    with pytest.raises(Exception, match="all 1 inputs failed") as refused:
        run(reduce_edge(input_key="xs", output_key="y", reducer=mean), {"xs": failed}, mode)
    # What the target raised comes out as it is.
    with pytest.raises(ConnectionError, match="sk-PLANTED-message"):
        run(vmap(fails, batch_key="xs", out_key="ys", name="raises"), state, mode, config)
    return found.replace("https://me:PLANTED-item@host", "the item") + str(failed) + str(refused.value)


@pytest.mark.parametrize("mode", MODES)
def test_planted_secrets_are_found_nowhere(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    saver = InMemorySaver()
    tracing.use_otel(provider)
    try:
        with caplog.at_level(logging.DEBUG, "mahsm"), ModelServer({"answer": "yes"}) as server:
            lm = server.lm(api_key="sk-PLANTED-key", temperature=0.5, stop=["END"], **OPTIONS)
            with dspy.context(lm=lm):
                run(vmap(dspy.Predict("item -> answer"), batch_key="xs", out_key="ys"), {"xs": ["a"]}, mode)
            errors = failures(saver, mode, {})
    finally:
        tracing.off()
    spans = [span.to_json() for span in exporter.get_finished_spans()]
    call = next(span.attributes for span in exporter.get_finished_spans() if span.name == "fake")
    assert (call["gen_ai.request.temperature"], call["gen_ai.request.stop_sequences"]) == (0.5, ("END",))
    assert any("sk-***" in span for span in spans)
    checkpoints = str(saver.storage) + str(saver.writes) + str(saver.blobs)
    item = "https://me:PLANTED-item@host"  # the user's own value, in the state and among inputs
    for text in (errors, checkpoints, caplog.text, "".join(spans)):
        assert "PLANTED" not in text.replace(item, "")


@pytest.mark.parametrize("mode", MODES)
def test_what_handlers_of_langchain_write_down_has_no_secrets(mode: str) -> None:
    edge = vmap(fails, batch_key="xs", out_key="ys", name="raises")
    with recorded() as recording, pytest.raises(ConnectionError, match="PLANTED"):
        run(edge, {"xs": [1]}, mode, {"callbacks": [recording.handler]})
    text = "".join(str(dict(span.attributes)) + str(span.events) for span in recording.spans)
    assert "ConnectionError" in text or "sk-***" in text
    assert "PLANTED" not in text


def test_options_that_are_shown() -> None:
    from pydantic import BaseModel

    from mahsm.tracing._options import shown_options

    class Answer(BaseModel):
        text: str

    assert shown_options(
        {
            "temperature": 0.5,
            "max_tokens": None,
            "n": 2,
            "api_key": "x",
            "api_base": "y",
            "seed": [1],
            "stop": ["a", "b"],
        }
    ) == {
        "n": 2,
        "stop": ["a", "b"],
        "temperature": 0.5,
    }
    assert shown_options({"response_format": {"type": "json_object", "key": "x"}}) == {
        "response_format": "json_object"
    }
    assert shown_options({"response_format": Answer}) == {"response_format": "Answer"}
    assert shown_options({"response_format": 3, "tool_choice": {"name": "x"}}) == {}
    assert shown_options({"response_format": {"type": "json_schema", "json_schema": {}}}) == {
        "response_format": "json_schema"
    }
    assert shown_options({"reasoning_effort": "low", "tool_choice": "sk-PLANTED-0"}) == {
        "reasoning_effort": "low"
    }


def test_options_whose_values_are_of_another_shape_are_not_shown() -> None:
    from mahsm.tracing._options import shown_options

    assert (
        shown_options(
            {"temperature": "sk-PLANTED-0", "logprobs": {"key": 1}, "service_tier": "PLANTED", "n": [1]}
        )
        == {}
    )
    assert shown_options({"stop": ["[[ ## completed ## ]]", "x" * 32, "sk-PLANTED-0", 3]}) == {
        "stop": ["[[ ## completed ## ]]", "***", "***"]
    }
    assert shown_options({"logprobs": True, "stream": False, "max_completion_tokens": 9}) == {
        "logprobs": True,
        "max_completion_tokens": 9,
        "stream": False,
    }


def test_how_much_a_model_thinks_is_shown() -> None:
    from mahsm.tracing._options import shown_options

    assert shown_options({"reasoning": {"effort": "high", "key": "PLANTED"}}) == {"reasoning": "high"}
    assert shown_options({"thinking": {"type": "enabled", "budget_tokens": 2048}}) == {"thinking": 2048}
    assert shown_options({"reasoning": "PLANTED", "thinking": "PLANTED"}) == {}


def test_of_tools_the_chosen_ones_name_is_shown() -> None:
    from mahsm.tracing._options import shown_options

    openai = {"type": "function", "function": {"name": "search", "description": "PLANTED"}}
    anthropic = {"name": "search", "input_schema": {}}
    for tool in (openai, anthropic):
        assert shown_options({"tools": [tool, "?"], "tool_choice": tool}) == {"tool_choice": "search"}
    assert shown_options({"tools": [openai], "tool_choice": "auto"}) == {"tool_choice": "auto"}
    assert shown_options({"tools": [openai], "tool_choice": {"function": {"name": "PLANTED"}}}) == {}
    assert shown_options({"tool_choice": {"function": "PLANTED"}}) == {}


def test_what_variables_of_the_environment_hold_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "planted in the environment")
    monkeypatch.setenv("EDITOR", "an ordinary value")
    monkeypatch.setenv("SHORT_KEY", "ordinary")
    assert redacted("bad: 'planted in the environment'") == "bad: '***'"
    assert redacted("an ordinary value stays ordinary") == "an ordinary value stays ordinary"


def test_credentials_that_were_handed_out_are_masked_whatever_their_form() -> None:
    keys = [f"handed{number}out{'x' * (number % 5)}" for number in range(300)]
    for key in keys:
        learn_secret(key)
        learn_secret(key)
    text = "".join(f"<{key}>" for key in keys)
    assert redacted(text) == "<***>" * 300
    assert redacted("handed300out handed1ou") == "handed300out handed1ou"
    assert "handed1out" not in repr(redact._learned)


def test_the_longest_of_credentials_that_begin_alike_is_masked() -> None:
    learn_secret("beginning-of")
    learn_secret("beginning-of-another")
    assert redacted("xbeginning-of-anotherx beginning-of-") == "x***x ***-"


def test_stand_ins_are_not_learned() -> None:
    learn_secret("none")
    assert redacted("none of them") == "none of them"


def test_of_many_credentials_the_oldest_are_forgotten() -> None:
    for number in range(5_000):
        learn_secret(f"rotated-{number:08}")
    assert redacted("rotated-00004999") == "***"
    assert len(redact._learned) <= 4096
