"""What is read of Langfuse besides its public names: a test for each, so that a new version of it breaks one
that says what."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langfuse import Langfuse
from langfuse.langchain import CallbackHandler
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mahsm.tracing import _langfuse as adapter

ROOT = Path(__file__).parents[2]
NAMES = (
    "_langfuse_client",
    "_mask",
    "_mask_attribute",
    "_observation_type",
    "_otel_span",
    "_resources",
    "_runs",
)
_numbers = itertools.count()


@pytest.fixture
def client() -> Iterator[Langfuse]:
    made = Langfuse(
        public_key=f"pk-adapter-{next(_numbers)}",
        secret_key="sk",
        base_url="http://127.0.0.1:9",
        tracer_provider=TracerProvider(),
        span_exporter=InMemorySpanExporter(),
        mask=lambda *, data, **_: str(data).replace("4111", "****"),
    )
    yield made
    made.shutdown()


@pytest.fixture
def handler(client: Langfuse) -> CallbackHandler:
    return CallbackHandler(public_key=adapter.public_key_of(client))


def test_the_key_of_a_client(client: Langfuse, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(adapter.public_key_of(client)).startswith("pk-adapter-")
    monkeypatch.delenv("LANGFUSE_PUBLIC_KEY", raising=False)
    assert adapter.public_key_of(Langfuse(secret_key="sk")) is None, "one without a key is switched off"


def test_the_client_of_a_handler(client: Langfuse, handler: CallbackHandler) -> None:
    assert adapter.public_key_of(adapter.client_of(handler)) == adapter.public_key_of(client)
    assert adapter.client_of(adapter.handler_for(client)) is client


def test_texts_of_scores_are_masked(client: Langfuse) -> None:
    assert adapter.masked_text(client, "card 4111") == "card ****"


def test_the_observations_of_a_handler(handler: CallbackHandler) -> None:
    run_id = uuid4()
    handler.on_chain_start({}, {"x": 1}, run_id=run_id, name="chain")
    assert adapter.runs_of(handler)[run_id].id
    handler.on_chain_end({}, run_id=run_id)
    assert adapter.runs_of(handler) == {}


def test_a_run_that_is_taken_over_is_not_ended_by_its_handler(handler: CallbackHandler) -> None:
    run_id = uuid4()
    handler.on_chain_start({}, {"x": 1}, run_id=run_id, name="chain")
    span = adapter.span_of(adapter.runs_of(handler).pop(run_id))
    handler.on_chain_error(ValueError("no"), run_id=run_id)
    assert span.is_recording()
    span.end()


def test_the_span_of_an_observation(client: Langfuse) -> None:
    with client.start_as_current_observation(name="step") as observation:
        assert adapter.span_of(observation).name == "step"


def test_the_type_of_an_observation_outlasts_its_updates(client: Langfuse) -> None:
    observation = client.start_observation(name="judge", as_type="chain")
    adapter.set_type(observation, "evaluator")
    observation.update(output=1)
    assert adapter.span_of(observation).attributes["langfuse.observation.type"] == "evaluator"
    observation.end()


def test_the_mask_of_a_client(client: Langfuse) -> None:
    observation = client.start_observation(name="step")
    assert adapter.masked_by_client(observation, "card 4111") == "card ****"
    observation.end()


class Other:
    """An object of another version of Langfuse."""


@pytest.mark.parametrize(
    ("read", "name"),
    [
        (adapter.public_key_of, "_resources"),
        (adapter.client_of, "_langfuse_client"),
        (adapter.runs_of, "_runs"),
        (adapter.span_of, "_otel_span"),
        (lambda other: adapter.set_type(other, "span"), "_observation_type"),
        (lambda other: adapter.masked_by_client(other, "text"), "_mask_attribute"),
        (lambda other: adapter.masked_text(other, "text"), "_mask"),
    ],
)
def test_a_version_that_lacks_one_is_told(read: Any, name: str) -> None:
    with pytest.raises(
        RuntimeError,
        match=rf"reads '{name}' of Langfuse's Other, which langfuse .* does not have\. Install a",
    ):
        read(Other())


def test_nothing_private_of_langfuse_is_read_elsewhere() -> None:
    private = re.compile(rf"(?<!self)\.(?:{'|'.join(NAMES)})\b")
    found = {path.name for path in (ROOT / "mahsm").rglob("*.py") if private.search(path.read_text())}
    assert found == {"_langfuse.py"}, "the adapter, which sets what it cannot only read"
    asked = set(re.findall(r'_private\(\w+, "(\w+)"\)', (ROOT / "mahsm/tracing/_langfuse.py").read_text()))
    assert asked == set(NAMES)
