"""Spans that were exported, as a tree."""

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from langfuse import Langfuse
from langfuse.langchain import CallbackHandler
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mahsm import tracing

_numbers = itertools.count()


@dataclass
class Recording:
    """A client of Langfuse whose spans stay in memory."""

    client: Any
    exporter: InMemorySpanExporter
    handler: Any

    @property
    def spans(self) -> list[Any]:
        self.client.flush()
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def tree(self) -> list[str]:
        """Names, indented by depth, brothers in the order in which they began; orphans are an error."""
        return tree(self.spans)

    @property
    def traces(self) -> int:
        return len({span.context.trace_id for span in self.spans})


def tree(spans: list[Any]) -> list[str]:
    children: dict[Any, list[Any]] = {}
    for span in spans:
        # Beside the first one.
        root = span.parent is None or span.parent.span_id == span.context.trace_id & (2**64 - 1)
        children.setdefault(None if root else span.parent.span_id, []).append(span)
    known = {span.context.span_id for span in spans}
    assert set(children) - {None} <= known, "orphans"
    lines: list[str] = []

    def add(parent: Any, depth: int) -> None:
        for span in sorted(children.get(parent, ()), key=lambda span: span.start_time):
            lines.append("  " * depth + span.name)
            add(span.context.span_id, depth + 1)

    add(None, 0)
    return lines


def facts(span: Any) -> dict[str, Any]:
    """What mahsm says of a span; Langfuse sends each value as JSON, so that numbers stay numbers."""
    prefix = "langfuse.observation.metadata.mahsm."
    return {
        name.removeprefix(prefix): json.loads(value)
        for name, value in span.attributes.items()
        if name.startswith(prefix)
    }


@contextmanager
def recorded(**options: Any) -> Iterator[Recording]:
    """Trace to memory in the block."""
    key = f"pk-test-{next(_numbers)}"  # there is one client for a key
    exporter = InMemorySpanExporter()
    client = Langfuse(
        public_key=key,
        secret_key="sk",
        base_url="http://127.0.0.1:9",
        tracer_provider=TracerProvider(),
        span_exporter=exporter,
        **options,
    )
    tracing.use(client)
    try:
        yield Recording(client, exporter, CallbackHandler(public_key=key))
    finally:
        tracing.off()
        client.shutdown()
