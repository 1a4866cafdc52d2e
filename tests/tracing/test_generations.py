"""Calls of models in a trace, over the wire: their options, tokens, prices and prompts, and that no secret is
among them."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langfuse.api import Prompt_Text
from langfuse.model import TextPromptClient
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from mahsm import dspy_node, parallel, reduce_edge, tracing, vmap
from mahsm._model_calls.langchain import answer_of_message
from mahsm.reducers import llm_judge_select
from mahsm.testing import FakeLM, LangfuseServer, ModelServer, Reply
from mahsm.tracing._options import shown_options
from tests.helpers import MODES, chat_model, graph_of, run
from tests.tracing.observations import Observed, observed

HANDLERS = (False, True)


def asks(**options: Any) -> Any:
    return vmap(dspy.Predict("item -> y"), batch_key="xs", out_key="ys", name="fan", **options)


# Secrets.

KEY = "PLANTED0Zx"
NAMES = st.one_of(
    st.sampled_from(
        [
            *(
                "api_key",
                "apikey",
                "vertex_credentials",
                "aws_secret_access_key",
                "azure_ad_token",
                "headers",
                "extra_headers",
            ),
            *(
                "extra_body",
                "default_headers",
                "organization",
                "user",
                "metadata",
                "base_url",
                "api_base",
                "http_client",
                "proxy",
            ),
            *(
                "temperature",
                "top_p",
                "n",
                "seed",
                "stop",
                "max_tokens",
                "max_completion_tokens",
                "logprobs",
                "response_format",
            ),
            *(
                "reasoning",
                "reasoning_effort",
                "thinking",
                "tool_choice",
                "tools",
                "service_tier",
                "verbosity",
                "truncation",
            ),
        ]
    ),
    st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12),
)
TEXTS = st.sampled_from(
    [
        f"sk-{KEY}",
        f"Bearer {KEY}abcdef1234",
        f"https://me:{KEY}@host/?key={KEY}",
        f'{{"private_key": "{KEY}"}}',
        f"{KEY} of nobody's form " * 3,
    ]
)
VALUES = st.recursive(
    TEXTS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=2),
        st.dictionaries(
            st.sampled_from(["Authorization", "x-api-key", "type", "effort", "name", "function"]),
            inner,
            min_size=1,
        ),
    ),
    max_leaves=4,
)


@given(st.dictionaries(NAMES, VALUES, max_size=6))
def test_no_option_shows_a_key(options: dict[str, Any]) -> None:
    assert KEY not in str(shown_options(options))


@given(
    st.dictionaries(st.sampled_from(["temperature", "top_p"]), st.floats(0, 2)),
    st.dictionaries(NAMES, VALUES, max_size=3),
)
def test_known_options_are_shown_whatever_is_beside_them(
    known: dict[str, float], others: dict[str, Any]
) -> None:
    assert shown_options({**others, **known}).items() >= known.items()


def told(places: list[str], key: str) -> str:
    """What a provider says of a call that it refuses, which quotes a key."""
    forms = {
        "key": f"Incorrect API key provided: sk-{key}.",
        "header": f"sent {{'Authorization': 'Bearer {key}abcdef1234', 'x-api-key': '{key}abcdef'}}",
        "url": f"POST https://me:{key}@host/v1?api_key={key}abc",
        "variable": f"rejected {key} of the environment",
    }
    return " ".join(forms[place] for place in places)


VARIABLES = [
    "OPENAI_API_KEY",
    "AZURE_AD_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "PGPASSWORD",
    "WATSONX_APIKEY",
    "VERTEX_CREDENTIALS",
]


@pytest.mark.parametrize("kind", ["langfuse", "handler", "otel"])
@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=5)
@given(
    places=st.lists(st.sampled_from(["key", "header", "url", "variable"]), min_size=1, unique=True),
    variable=st.sampled_from(VARIABLES),
    option=st.sampled_from(["vertex_credentials", "azure_ad_token", "aws_session_token", "my_own_thing"]),
)
def test_no_key_goes_over_the_wire(
    kind: str, mode: str, places: list[str], variable: str, option: str
) -> None:
    secrets = {
        "api_key": f"sk-{KEY}",
        option: f"{KEY} option",
        "extra_headers": {"x-api-key": f"{KEY} header"},
    }
    with pytest.MonkeyPatch.context() as patch, sent(kind) as (seen, config):
        patch.setenv(variable, f"{KEY}-in-the-environment")
        replies: list[Any] = [{"y": "1"}, Reply(told(places, f"{KEY}-in-the-environment"), status=401)]
        with ModelServer(replies) as server:
            lm = server.lm(temperature=0.5, stop=["END"], **secrets)
            chat = chat_model(
                server.base_url,
                api_key=f"sk-{KEY}",
                default_headers={"Connection": "close", "x-api-key": f"{KEY} header"},
            )
            for model in ("dspy", "dspy", "langchain"):
                target = (
                    dspy.Predict("item -> y")
                    if model == "dspy"
                    else lambda state: chat.invoke(state["item"]).content
                )
                edge = vmap(target, batch_key="xs", out_key="ys", name="fan", on_error="drop")
                with dspy.context(lm=lm):
                    run(graph_of(edge), {"xs": ["a"]}, mode, config)
            failing = vmap(lambda state: chat.invoke("x"), batch_key="xs", out_key="ys", name="fails")
            with pytest.raises(Exception, match="401"):
                run(graph_of(failing), {"xs": ["a"]}, mode, config)
        tracing.flush()
        rows = seen.server.observations
        assert [each["modelParameters"].get("temperature") for each in rows if each["name"] == "fake"][
            :1
        ] == [0.5]
        assert any(each["level"] == "ERROR" for each in rows)
        assert KEY not in str(seen.server.spans)


@contextmanager
def sent(kind: str, *, scores: bool = False) -> Iterator[tuple[Observed, Any]]:
    """Trace to a server on loopback: with Langfuse's client, with its handler, too, or through OpenTelemetry
    alone."""
    if kind != "otel":
        with observed() as seen:
            yield seen, seen.config(kind == "handler")
        return
    with LangfuseServer() as server:
        provider = TracerProvider()
        provider.add_span_processor(
            SimpleSpanProcessor(OTLPSpanExporter(f"{server.url}/api/public/otel/v1/traces"))
        )
        tracing.use_otel(provider, scores=scores)
        try:
            yield Observed(server, None), {}
        finally:
            tracing.off()
            provider.shutdown()


# Tokens.


def body(details: dict[str, Any]) -> Reply:
    """An answer of OpenAI's protocol that took 1,000 tokens in and 100 out, of which these are told apart."""
    message = {"role": "assistant", "content": "[[ ## y ## ]]\n1\n\n[[ ## completed ## ]]"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100, **details}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    made = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [choice],
        "usage": usage,
    }
    return Reply(raw=json.dumps(made).encode())


DETAILS = {
    "prompt_tokens_details": {"cached_tokens": 600},
    "completion_tokens_details": {"reasoning_tokens": 70},
}
TOLD_APART = {"input": 400, "input_cache_read": 600, "output": 30, "output_reasoning": 70, "total": 1100}


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_cached_and_reasoning_tokens_are_told_apart(mode: str, handler: bool) -> None:
    with ModelServer([body(DETAILS), body({})]) as server, observed() as seen, dspy.context(lm=server.lm()):
        run(graph_of(asks(max_concurrency=1)), {"xs": ["a", "b"]}, mode, seen.config(handler))
        first, second = (each.row["usageDetails"] for each in seen.typed("GENERATION"))
        assert first == TOLD_APART
        assert second == {"input": 1000, "output": 100, "total": 1100}
        facts = seen.one("vmap:fan").facts
        assert (facts["input_tokens"], facts["output_tokens"]) == (2000, 200), "an edge's are all of them"
        assert facts["cache_read_tokens"] == 600
        assert "cache_creation_tokens" not in facts


def test_more_that_are_told_apart_than_there_are_count_as_all() -> None:
    details = {
        "prompt_tokens_details": {"cached_tokens": 5000},
        "completion_tokens_details": {"reasoning_tokens": 500},
    }
    with ModelServer(body(details)) as server, observed() as seen, dspy.context(lm=server.lm()):
        asks().invoke({"xs": ["a"]})
        usage = seen.typed("GENERATION")[0].row["usageDetails"]
        assert usage == {
            "input": 0,
            "input_cache_read": 1000,
            "output": 0,
            "output_reasoning": 100,
            "total": 1100,
        }


def test_tokens_of_langchains_models_are_told_apart() -> None:
    usage: Any = {
        "input_tokens": 1000,
        "output_tokens": 100,
        "total_tokens": 1100,
        "input_token_details": {"cache_read": 600, "cache_creation": 100},
        "output_token_details": {"reasoning": 70},
    }
    message = (
        ChatResult(generations=[ChatGeneration(message=AIMessage("x", usage_metadata=usage))])
        .generations[0]
        .message
    )
    answer = answer_of_message(message, fresh=True, asked={})  # type: ignore[arg-type]
    assert (answer.cache_read_tokens, answer.cache_creation_tokens, answer.reasoning_tokens) == (600, 100, 70)


# When answers begin.


@pytest.mark.parametrize("handler", HANDLERS)
def test_streamed_nodes_say_when_the_answer_began(handler: bool) -> None:
    node = dspy_node(dspy.Predict("item -> y"), stream=True, name="ask")

    async def streamed(graph: Any, config: Any) -> list[Any]:
        return [event async for event in graph.astream({"xs": ["a"]}, config, stream_mode="custom")]

    with (
        ModelServer({"y": "one two three four"}) as server,
        observed() as seen,
        dspy.context(lm=server.lm(cache=False)),
    ):
        graph = graph_of(vmap(node, batch_key="xs", out_key="ys", name="fan"))
        assert asyncio.run(streamed(graph, seen.config(handler)))
        (row,) = (each.row for each in seen.typed("GENERATION"))
        assert row["startTime"] <= row["completionStartTime"].replace("Z", "+00:00") <= row["endTime"]


def test_other_nodes_do_not() -> None:
    with ModelServer({"y": "one"}) as server, observed() as seen, dspy.context(lm=server.lm(cache=False)):
        asks().invoke({"xs": ["a"]})
        assert seen.typed("GENERATION")[0].row["completionStartTime"] is None


# Prompts.


def langfuses(name: str, *, fallback: bool = False) -> TextPromptClient:
    made = Prompt_Text(
        name=name, version=3, prompt="Answer briefly.", config={}, labels=[], tags=[], type="text"
    )
    return TextPromptClient(made, is_fallback=fallback)


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_calls_are_linked_to_a_prompt(mode: str, handler: bool) -> None:
    both = parallel({"left": asks(), "right": dspy.Predict("xs -> best")}, name="both")
    judge = reduce_edge(input_key="xs", output_key="errors", reducer=llm_judge_select(), name="best")
    with observed() as seen, dspy.context(lm=FakeLM(lambda call: dict.fromkeys(call.outputs, "1"))):
        with tracing.prompt(langfuses("answer")):
            run(graph_of(both, judge), {"xs": ["a", "b"]}, mode, seen.config(handler))
        linked = [(each.row["promptName"], each.row["promptVersion"]) for each in seen.typed("GENERATION")]
        assert len(linked) >= 5
        assert set(linked) == {("answer", 3)}
        run(asks(), {"xs": ["c"]}, mode, seen.config(handler))
        assert seen.typed("GENERATION")[-1].row["promptName"] is None, "the block is over"


@pytest.mark.parametrize("mode", MODES)
def test_the_innermost_prompt_counts_and_a_fallback_links_nothing(mode: str) -> None:
    def target(state: Any) -> Any:
        with tracing.prompt(langfuses("inner", fallback=state["item"] == "b")):
            return dspy.Predict("item -> y")(item=state["item"]).y

    with observed() as seen, dspy.context(lm=FakeLM({"y": "1"})), tracing.prompt(langfuses("outer")):
        run(vmap(target, batch_key="xs", out_key="ys", max_concurrency=1), {"xs": ["a", "b"]}, mode)
        assert [each.row["promptName"] for each in seen.typed("GENERATION")] == ["inner", None]


def test_what_is_no_prompt_is_refused() -> None:
    with pytest.raises(
        TypeError,
        match=r"tracing\.prompt got 'answer'; expected the result of Langfuse's `client\.get_prompt\(name\)`",
    ):
        tracing.prompt("answer")


# OpenTelemetry's conventions.


def attributes_of(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


@pytest.mark.parametrize("mode", MODES)
def test_an_export_has_the_names_of_the_conventions(mode: str) -> None:
    with (
        ModelServer(body(DETAILS)) as server,
        sent("otel") as (seen, _),
        dspy.context(lm=server.lm(temperature=0.5, n=1)),
    ):
        with tracing.prompt(langfuses("answer")):
            run(asks(), {"xs": ["a"]}, mode)
        (call,) = (attributes_of(span) for span in seen.server.spans if span.name == "fake")
        expected = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "fake",
            "gen_ai.response.model": "fake",
            "gen_ai.request.temperature": 0.5,
            "gen_ai.request.choice.count": 1,
            "gen_ai.usage.input_tokens": 1000,
            "gen_ai.usage.output_tokens": 100,
            "gen_ai.usage.cache_read.input_tokens": 600,
            "gen_ai.usage.reasoning.output_tokens": 70,
        }
        assert call == call | expected
        assert json.loads(call["gen_ai.output.messages"])[0]["role"] == "assistant"
        assert [
            part["type"] for message in json.loads(call["gen_ai.input.messages"]) for part in message["parts"]
        ] == ["text"] * 2


@pytest.mark.parametrize("mode", MODES)
def test_langfuse_makes_the_same_of_an_export_as_of_its_own_client(mode: str) -> None:
    judge = reduce_edge(input_key="xs", output_key="best", reducer=llm_judge_select(), name="best")
    found: dict[str, Any] = {}
    for kind in ("langfuse", "otel"):
        lm = FakeLM(
            lambda call: Reply(dict.fromkeys(call.outputs, "1"), usage=(1000, 100)),
            price=(1.0, 2.0),
            temperature=0.5,
        )
        with sent(kind) as (seen, _), dspy.context(lm=lm):
            with tracing.span("both"), tracing.prompt(langfuses("answer")):
                run(asks(), {"xs": ["a"]}, mode)
                run(judge, {"xs": ["a", "b"]}, mode)
                with pytest.raises(ValueError, match="boom"):
                    run(vmap(boom, batch_key="xs", out_key="ys"), {"xs": [1]}, mode)
            tracing.flush()
            names = (
                "name",
                "type",
                "level",
                "statusMessage",
                "model",
                "totalCost",
                "promptName",
                "promptVersion",
            )
            rows = [
                (*(each[name] for name in names), each["modelParameters"].get("temperature"))
                for each in seen.server.observations
            ]
            found[kind] = (
                sorted(rows, key=str),
                [each["usageDetails"].get("input") for each in seen.server.observations],
            )
    assert found["otel"][0] == found["langfuse"][0]
    assert sum(filter(None, found["otel"][1])) == sum(filter(None, found["langfuse"][1])) == 3000


def boom(state: Any) -> Any:
    raise ValueError("boom")


def test_an_unknown_price_is_in_no_export() -> None:
    with sent("otel") as (seen, _), dspy.context(lm=FakeLM({"y": "1"})):
        asks().invoke({"xs": ["a"]})
        assert not any("cost" in name for span in seen.server.spans for name in attributes_of(span))


def test_what_comes_from_a_cache_costs_nothing_in_an_export() -> None:
    with ModelServer({"y": "v"}) as server, sent("otel") as (seen, _), dspy.context(lm=server.lm(cache=True)):
        for _ in range(2):
            asks().invoke({"xs": [f"cached {id(server)}"]})
        _, cached = (attributes_of(span) for span in seen.server.spans if span.name == "fake")
        assert (cached["gen_ai.usage.input_tokens"], cached["gen_ai.usage.output_tokens"]) == (0, 0)


@pytest.mark.parametrize("mode", MODES)
def test_streams_say_when_they_began_in_an_export(mode: str) -> None:
    node = dspy_node(dspy.Predict("item -> y"), stream=True, name="ask")

    async def streamed(graph: Any) -> list[Any]:
        return [event async for event in graph.astream({"xs": ["a"]}, stream_mode="custom")]

    with (
        ModelServer({"y": "one two three"}) as server,
        sent("otel") as (seen, _),
        dspy.context(lm=server.lm(cache=False)),
    ):
        graph = graph_of(vmap(node, batch_key="xs", out_key="ys", name="fan"))
        assert (
            asyncio.run(streamed(graph))
            if mode == "async"
            else list(graph.stream({"xs": ["a"]}, stream_mode="custom"))
        )
        (call,) = (attributes_of(span) for span in seen.server.spans if span.name == "fake")
        assert call["gen_ai.response.time_to_first_chunk"] >= 0
        assert call["langfuse.observation.completion_start_time"]


def test_options_and_tools_have_their_names_in_an_export() -> None:
    asks_with = dspy.Predict("item -> y", stop="END", response_format={"type": "json_object"})

    def target(state: Any) -> Any:
        return dspy.Tool(lambda x: x + 1, name="adds")(x=len(asks_with(item=state["item"]).y))

    with ModelServer({"y": "one"}) as server, sent("otel") as (seen, _), dspy.context(lm=server.lm()):
        vmap(target, batch_key="xs", out_key="ys").invoke({"xs": ["a"]})
        found = {span.name: attributes_of(span) for span in seen.server.spans}
    assert [value.string_value for value in found["fake"]["gen_ai.request.stop_sequences"].values] == ["END"]
    assert (found["fake"]["gen_ai.output.type"], "gen_ai.request.response_format" in found["fake"]) == (
        "json",
        False,
    )
    assert (found["adds"]["gen_ai.operation.name"], found["adds"]["gen_ai.tool.name"]) == (
        "execute_tool",
        "adds",
    )
    assert (found["adds"]["gen_ai.tool.call.arguments"], found["adds"]["gen_ai.tool.call.result"]) == (
        '{"x": 3}',
        "4",
    )


def test_scores_are_attributes_of_an_export() -> None:
    with sent("otel", scores=True) as (seen, _):
        vmap(
            lambda state: 1 // state["item"], batch_key="xs", out_key="ys", name="fan", on_error="drop"
        ).invoke({"xs": [0, 1]})
        (found,) = (attributes_of(span) for span in seen.server.spans if span.name == "vmap:fan")
    assert (found["mahsm.score.error_rate"], found["langfuse.observation.type"]) == (0.5, "chain")
