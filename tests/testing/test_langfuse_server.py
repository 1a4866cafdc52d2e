"""`LangfuseServer` answers to Langfuse's own client as Langfuse does: pages, groups of fields, refusals."""

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langfuse import Langfuse
from langfuse.api.core import ApiError
from opentelemetry.sdk.trace import TracerProvider

from mahsm.testing import LangfuseServer

_numbers = itertools.count()
LONG = "a" * 300


@pytest.fixture
def client() -> Iterator[Langfuse]:
    with LangfuseServer() as server:
        made = Langfuse(
            public_key=f"pk-server-{next(_numbers)}",
            secret_key="sk",
            base_url=server.url,
            tracer_provider=TracerProvider(),
        )
        with made.start_as_current_observation(name="outer", metadata={"long": LONG, "short": [1, 2]}) as one:
            one.score(name="thumb", value=1, data_type="BOOLEAN", comment="fine", score_id="s-1")
            one.score_trace(name="taste", value="good", data_type="CATEGORICAL")
            with made.start_as_current_observation(name="inner"):
                pass
        made.create_score(name="mood", value=0.5, session_id="chat")
        made.flush()
        yield made
        made.shutdown()


def test_scores_have_their_types_and_subjects(client: Langfuse) -> None:
    found = {each.name: each for each in client.api.scores.get_many(fields="subject,details").data}
    assert {name: each.value for name, each in found.items()} == {"thumb": True, "taste": "good", "mood": 0.5}
    assert [each.data_type for each in found.values()] == ["BOOLEAN", "CATEGORICAL", "NUMERIC"]
    [outer] = client.api.observations.get_many(name="outer").data
    subjects: Any = {name: each.subject for name, each in found.items()}
    assert (subjects["thumb"].kind, subjects["thumb"].id) == ("observation", outer.id)
    assert subjects["thumb"].trace_id == outer.trace_id == subjects["taste"].id
    assert (subjects["mood"].kind, subjects["mood"].id) == ("session", "chat")
    assert found["thumb"].comment == "fine"
    assert client.api.scores.get_many(name="thumb").data[0].subject is None


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"name": "thumb,mood"}, ["thumb", "mood"]),
        ({"id": "s-1"}, ["thumb"]),
        ({"data_type": "boolean,numeric"}, ["thumb", "mood"]),
        ({"source": "annotation"}, []),
        ({"session_id": "chat"}, ["mood"]),
        ({"from_timestamp": datetime.now(UTC) + timedelta(days=1)}, []),
        ({"to_timestamp": datetime(2020, 1, 1, tzinfo=UTC)}, []),
    ],
)
def test_scores_are_filtered(client: Langfuse, query: Any, names: list[str]) -> None:
    assert [each.name for each in client.api.scores.get_many(**query).data] == names


def test_scores_come_in_pages(client: Langfuse) -> None:
    cursor, names = None, []
    while True:
        page = client.api.scores.get_many(limit=1, cursor=cursor)
        names += [each.name for each in page.data]
        cursor = page.meta.cursor
        if cursor is None:
            break
    assert names == ["thumb", "taste", "mood"]


@pytest.mark.parametrize(
    "query", [{"limit": 101}, {"fields": "everything"}, {"observation_id": "a"}, {"limit": 0}]
)
def test_invalid_queries_of_scores_are_refused(client: Langfuse, query: Any) -> None:
    with pytest.raises(ApiError) as caught:
        client.api.scores.get_many(**query)
    assert caught.value.status_code == 400


def test_a_score_with_the_same_id_and_time_replaces(client: Langfuse) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for value, shift in ((0.0, 0), (1.0, 0), (0.5, 1)):
        client.create_score(
            name="again", value=value, trace_id="a" * 32, score_id="s-2", timestamp=at + timedelta(days=shift)
        )
    client.flush()
    found = client.api.scores.get_many(trace_id="a" * 32).data
    assert [each.value for each in found] == [1.0, 0.5]


def test_long_metadata_is_cut_unless_it_is_asked_for(client: Langfuse) -> None:
    [cut] = client.api.observations.get_many(name="outer", fields="metadata").data
    [whole] = client.api.observations.get_many(name="outer", fields="metadata", expand_metadata="long").data
    assert cut.metadata == {"long": LONG[:200], "short": [1, 2]}
    assert whole.metadata == {"long": LONG, "short": [1, 2]}
    with pytest.raises(ApiError):
        client.api.observations.get_many(limit=1001)


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ([{"type": "stringObject", "column": "metadata", "key": "long", "operator": "is set"}], ["outer"]),
        ([{"type": "stringObject", "column": "metadata", "key": "no", "operator": "is set"}], []),
        ([{"type": "string", "column": "name", "operator": "contains", "value": "nn"}], ["inner"]),
        (
            [{"type": "datetime", "column": "startTime", "operator": ">", "value": "2020-01-01T00:00:00Z"}],
            ["inner", "outer"],
        ),
    ],
)
def test_observations_are_filtered(client: Langfuse, conditions: Any, names: list[str]) -> None:
    # The filter takes precedence over other parameters.
    found = client.api.observations.get_many(filter=json.dumps(conditions), name="other").data
    assert [each.name for each in found] == names


def test_observations_are_filtered_by_time(client: Langfuse) -> None:
    now = datetime.now(UTC)
    assert client.api.observations.get_many(from_start_time=now + timedelta(days=1)).data == []
    assert len(client.api.observations.get_many(to_start_time=now + timedelta(days=1)).data) == 2
