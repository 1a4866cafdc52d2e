"""Choices and their scores from Langfuse, joined.

A score belongs to the choices on whose way to the root of the trace it is found: on the observation of the
`route` edge itself, on one around it, or on the trace. A score on what the edge has called, such as a
generation, counts as its own. Of several scores of a choice, the nearest one counts, and of these the latest.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from mahsm._common import is_figure, shown
from mahsm.errors import LearnError

if TYPE_CHECKING:
    from mahsm.tracing._internal import Langfuse

_FACTS = ("choice_id", "choice_arm", "choice_propensity", "choice_features")


class Fetched(NamedTuple):
    """Choices that Langfuse has.

    Attributes:
        rows: Those with a score, as rows of a log, in the order in which they were made.
        unscored: The number of those without one.
        unreadable: The number of those whose metadata is not what an edge has written, such as behind a mask.
    """

    rows: list[dict[str, Any]]
    unscored: int
    unreadable: int


def fetch(
    client: "Langfuse | None",
    name: str | Sequence[str],
    edge: str | None,
    from_: datetime | None,
    to: datetime | None,
    values: Mapping[str, float] | None,
) -> Fetched:
    """Return what Langfuse has; `logs.from_langfuse` says more."""
    names = _checked(name, edge, from_, to)
    from mahsm.tracing._internal import CHOICE_ID, PREFIX, api, client_for

    langfuse: Any = client_for("init, which logs.from_langfuse") if client is None else client
    conditions = [api.with_metadata(f"{PREFIX}{CHOICE_ID}")]
    if edge is not None:
        label = edge if ":" in edge else f"route:{edge.removeprefix('route_')}"
        conditions.append(api.with_text("name", label))
    conditions += [api.began(operator, at) for operator, at in ((">=", from_), ("<", to)) if at is not None]
    keys = [f"{PREFIX}{name}" for name in _FACTS]
    choices = _Choices()
    for each in api.observations(langfuse, conditions, "basic,metadata", keys):
        choices.add(each, [_value((each.metadata or {}).get(key)) for key in keys])
    scores: list[Any] = []
    if choices.of_trace:
        # The scores of `tracing.reward` have the time of their choice, in whole seconds.
        since = None if from_ is None else from_ - timedelta(seconds=1)
        found = api.scores(langfuse, name=",".join(names), from_timestamp=since)
        scores = [each for each in found if choices.has(each.subject)]
    parents: dict[str, dict[str, str | None]] = {}
    for each in scores:
        trace, observation = _subject(each)
        if observation is not None and observation not in choices.at and trace not in parents:
            around = api.observations(langfuse, [api.with_text("traceId", trace)])
            parents[trace] = {one.id: one.parent_observation_id for one in around}
    return choices.joined(scores, parents, values)


@dataclass
class _Choice:
    """A choice. A run that was resumed has it in several observations."""

    row: dict[str, Any]
    begun: datetime
    places: list[tuple[str, str]]


@dataclass
class _Choices:
    by_id: dict[str, _Choice] = field(default_factory=dict[str, _Choice])
    at: dict[str, str] = field(default_factory=dict[str, str])
    """From observations to the choices that they have made."""
    of_trace: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    unreadable: int = 0

    def add(self, observation: Any, facts: Sequence[Any]) -> None:
        id, arm, propensity, features = facts
        if not (
            isinstance(id, str)
            and isinstance(arm, str)
            and is_figure(propensity, 0.0, 1.0)
            and isinstance(features, list)
            and all(is_figure(each, -1e300, 1e300) for each in cast("list[Any]", features))
        ):
            self.unreadable += 1
            return
        numbers = cast("list[Any]", features)
        row = {"id": id, "arm": arm, "propensity": propensity, "features": numbers}
        choice = self.by_id.setdefault(id, _Choice(row, observation.start_time, []))
        choice.places.append((observation.trace_id, observation.id))
        self.at[observation.id] = id
        ids = self.of_trace.setdefault(observation.trace_id, [])
        if id not in ids:
            ids.append(id)

    def has(self, subject: Any) -> bool:
        return subject is not None and _trace_of(subject) in self.of_trace

    def joined(
        self,
        scores: Iterable[Any],
        parents: Mapping[str, Mapping[str, str | None]],
        values: Mapping[str, float] | None,
    ) -> Fetched:
        best: dict[str, tuple[int, datetime, float]] = {}
        for each in scores:
            for id, distance in self._reached(*_subject(each), parents):
                found = (-distance, each.updated_at, _reward(each, values))
                best[id] = max(best.get(id, found), found)
        ordered = sorted(self.by_id.items(), key=lambda one: one[1].begun)
        rows = [{**choice.row, "reward": best[id][2]} for id, choice in ordered if id in best]
        return Fetched(rows, len(self.by_id) - len(rows), self.unreadable)

    def _reached(
        self, trace: str, observation: str | None, parents: Mapping[str, Mapping[str, str | None]]
    ) -> list[tuple[str, int]]:
        """Return the choices that a score counts for, with their distances to it."""
        ids = self.of_trace.get(trace, [])
        if observation is None:
            return [(id, 1_000_000) for id in ids]
        if observation in self.at:
            return [(self.at[observation], 0)]
        of = parents.get(trace, {})
        for above in _up(observation, of):
            if above in self.at:
                return [(self.at[above], 0)]
        found: list[tuple[str, int]] = []
        for id in ids:
            for _, place in self.by_id[id].places:
                ways = list(_up(place, of))
                if observation in ways:
                    found.append((id, ways.index(observation)))
        return found


def _up(observation: str, parents: Mapping[str, str | None]) -> Iterable[str]:
    """Return an observation and those around it, from the inside out."""
    seen: set[str] = set()
    at: str | None = observation
    while at is not None and at not in seen:
        seen.add(at)
        yield at
        at = parents.get(at)


def _subject(score: Any) -> tuple[str, str | None]:
    """Return the trace of a score, and its observation, or None if it is of the trace."""
    subject = score.subject
    return _trace_of(subject), None if subject.kind == "trace" else subject.id


def _trace_of(subject: Any) -> str:
    return subject.id if subject.kind == "trace" else getattr(subject, "trace_id", None) or ""


def _reward(score: Any, values: Mapping[str, float] | None) -> float:
    value = score.value
    if isinstance(value, str):
        if values is None or value not in values:
            raise LearnError(
                f"from_langfuse: the score {score.name!r} has the value {value!r}; expected a number, True "
                f"or False. Pass what each category is worth, such as values={{{value!r}: 1.0}}."
            )
        value = values[value]
    return float(value)


def _value(value: Any) -> Any:
    """Return a metadata value; some versions of Langfuse's API give lists and numbers as JSON."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return cast("Any", found) if isinstance(found, list | str) else value


def _checked(name: Any, edge: Any, from_: Any, to: Any) -> list[str]:
    names: list[Any] = [name] if isinstance(name, str) else list(name) if hasattr(name, "__iter__") else []
    if not names or not all(isinstance(each, str) and each and "," not in each for each in names):
        raise LearnError(
            f"from_langfuse: name={shown(name)}; expected the name of a score without commas, or several."
        )
    if edge is not None and (not isinstance(edge, str) or not edge):
        raise LearnError(f"from_langfuse: edge={shown(edge)}; expected the name of an edge.")
    for argument, at in (("from_", from_), ("to", to)):
        if at is not None and (not isinstance(at, datetime) or at.tzinfo is None):
            raise LearnError(
                f"from_langfuse: {argument}={shown(at)}; expected a datetime with a time zone, such as "
                "datetime.now(UTC)."
            )
    return names
