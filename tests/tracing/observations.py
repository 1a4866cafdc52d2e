"""Traces over the wire: what arrives at a server on loopback, as Langfuse's ingestion makes observations of
it."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mahsm import _spans, tracing
from mahsm.testing import LangfuseServer

_numbers = itertools.count()


@dataclass(frozen=True)
class Observation:
    """One observation, with the one that it stands below."""

    name: str
    type: str
    level: str
    status: str | None
    facts: dict[str, Any]
    """Its metadata of ours, without `mahsm.`"""
    parent: "Observation | None"
    row: dict[str, Any]
    """What Langfuse's API says of it."""

    @property
    def path(self) -> list[str]:
        """Its name, and those of all that are around it, from the inside out."""
        return [self.name, *(self.parent.path if self.parent else ())]

    @property
    def item(self) -> int | None:
        """The index of the item or branch that it stands in, or is."""
        index = self.facts.get("index")
        return index if index is not None or self.parent is None else self.parent.item


@dataclass(frozen=True)
class Observed:
    """What has arrived so far."""

    server: LangfuseServer
    handler: Any

    @property
    def client(self) -> Any:
        return self.handler._langfuse_client

    @property
    def public_key(self) -> str:
        return self.client._resources.public_key

    def config(self, handler: bool) -> Any:
        return {"callbacks": [self.handler]} if handler else {}

    @property
    def all(self) -> list[Observation]:
        tracing.flush()
        rows = {row["id"]: row for row in self.server.observations}
        made: dict[str, Observation] = {}

        def make(row: dict[str, Any]) -> Observation:
            if row["id"] not in made:
                ours = {
                    key.removeprefix("mahsm."): value
                    for key, value in row["metadata"].items()
                    if key.startswith("mahsm.")
                }
                # The first one of its trace.
                stands_beside = row["parentObservationId"] == row["traceId"][16:]
                parent = (
                    None
                    if row["isRootObservation"] or stands_beside
                    else make(rows[row["parentObservationId"]])
                )
                made[row["id"]] = Observation(
                    row["name"], row["type"], row["level"], row["statusMessage"], ours, parent, row
                )
            return made[row["id"]]

        return [make(row) for row in rows.values()]

    def named(self, name: str) -> list[Observation]:
        return [each for each in self.all if each.name == name]

    def one(self, name: str) -> Observation:
        (found,) = self.named(name)
        return found

    def typed(self, kind: str) -> list[Observation]:
        return [each for each in self.all if each.type == kind]

    @property
    def scores(self) -> list[tuple[str, float]]:
        tracing.flush()
        return [(score["name"], score["value"]) for score in self.server.scores]


@contextmanager
def observed(**options: Any) -> Iterator[Observed]:
    """Trace to a server on loopback in the block."""
    with LangfuseServer() as server:
        outside = _spans.tracer()
        handler = tracing.init(f"pk-observed-{next(_numbers)}", "sk", server.url, **options)
        try:
            yield Observed(server, handler)
        finally:
            tracing.flush()
            _spans.trace_with(outside)
