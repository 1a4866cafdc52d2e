"""A server on loopback that receives traces like Langfuse, and serves its API of observations and scores."""

import gzip
import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

from mahsm.testing._langfuse_api import Refused, page_of_observations, page_of_scores

_PREFIX = "langfuse.observation."

_USAGE: Mapping[str, tuple[str, str]] = {
    "input_tokens": ("input", ""),
    "output_tokens": ("output", ""),
    "cache_read.input_tokens": ("input_cached_tokens", "input"),
    "cache_creation.input_tokens": ("input_cache_creation", "input"),
    "reasoning.output_tokens": ("output_reasoning_tokens", "output"),
}
"""From kinds of tokens in OpenTelemetry's conventions to Langfuse's name, and the kind that includes them."""


@dataclass
class LangfuseServer:
    """Receives the traces and scores of a Langfuse client, for tests without a network or a key.

    It converts spans to observations like Langfuse, and serves `/api/public/v2/observations` and
    `/api/public/v3/scores`, so that you can also test code that reads traces. It supports filters of
    observations by name, type, level, trace, time and metadata, and those of scores but the ones by value.

    Args:
        latency: Seconds until each answer.
        status: The HTTP status of each answer.

    Attributes:
        spans: The received spans, in OpenTelemetry's protocol.
        scores: The received scores.

    Example:
        >>> from mahsm import tracing, vmap
        >>> from mahsm.testing import LangfuseServer
        >>> edge = vmap(lambda state: state["item"] * 2, batch_key="xs", out_key="ys", name="double")
        >>> with LangfuseServer() as server:
        ...     _ = tracing.init("pk-server-example", "sk", server.url)
        ...     _ = edge.invoke({"xs": [1, 2]})
        ...     tracing.flush()
        ...     tracing.off()
        >>> seen = server.observations
        >>> [(each["name"], each["type"], each["metadata"].get("mahsm.fan_out")) for each in seen]
        [('lambda', 'SPAN', None), ('lambda', 'SPAN', None), ('vmap:double', 'CHAIN', 2)]
    """

    latency: float = 0.0
    status: int = 200
    spans: list[Any] = field(default_factory=list[Any], init=False)
    scores: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]], init=False)

    def __post_init__(self) -> None:
        self._scored: list[tuple[dict[str, Any], datetime]] = []
        self._http = _LangfuseHttp(("127.0.0.1", 0), _LangfuseHandler)
        self._http.owner = self
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.01,), name="mahsm-langfuse", daemon=True
        )

    @property
    def url(self) -> str:
        """The `base_url` for clients."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def observations(self) -> list[dict[str, Any]]:
        """The spans as observations, with the names of Langfuse's API, in order of arrival."""
        return [_observation(span) for span in list(self.spans)]

    def take(self, path: str, body: bytes) -> tuple[bytes, str]:
        """Store the body of a client's request; return the answer and its content type."""
        if path.endswith("/otel/v1/traces"):
            from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
            return b"", "application/x-protobuf"
        if path.endswith("/scores"):
            scores: list[dict[str, Any]] = json.loads(body)
            now = datetime.now(UTC)
            self._scored += [({**score, "id": score.get("id") or uuid4().hex}, now) for score in scores]
            self.scores += scores
        return b'{"message": "Accepted"}', "application/json"

    def answer(self, path: str, query: Mapping[str, str]) -> object:
        """Return the answer to a GET request."""
        if path.endswith("/v2/observations"):
            return page_of_observations(self.observations, query)
        if path.endswith("/v3/scores"):
            return page_of_scores(list(self._scored), query)
        return {"data": [{"id": "p", "name": "p", "organization": {"id": "o", "name": "o"}, "metadata": {}}]}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _observation(span: Any) -> dict[str, Any]:
    """Convert a span to an observation; Langfuse's attributes take precedence over OpenTelemetry's."""
    found: dict[str, Any] = {each.key: _value(each.value) for each in span.attributes}
    cost = found.get("gen_ai.usage.cost")
    costs = _parsed(found.get(f"{_PREFIX}cost_details")) or ({} if cost is None else {"total": cost})
    begun, ended = (nanoseconds / 1e9 for nanoseconds in (span.start_time_unix_nano, span.end_time_unix_nano))
    parent = span.parent_span_id.hex() or None
    return {
        "id": span.span_id.hex(),
        "traceId": span.trace_id.hex(),
        "parentObservationId": parent,
        "isRootObservation": parent is None
        or str(found.get("langfuse.internal.as_root", "")).lower() == "true",
        "traceName": found.get("langfuse.trace.name"),
        "environment": found.get("langfuse.environment", "default"),
        "projectId": "p",
        "name": span.name,
        "type": str(found.get(f"{_PREFIX}type", "span")).upper(),
        "level": found.get(f"{_PREFIX}level", "ERROR" if span.status.code == 2 else "DEFAULT"),
        "statusMessage": found.get(f"{_PREFIX}status_message", span.status.message or None),
        "startTime": datetime.fromtimestamp(begun, UTC).isoformat(),
        "endTime": datetime.fromtimestamp(ended, UTC).isoformat(),
        "latency": ended - begun,
        "input": found.get(f"{_PREFIX}input"),
        "output": found.get(f"{_PREFIX}output"),
        "metadata": _below(found, f"{_PREFIX}metadata."),
        "model": found.get(f"{_PREFIX}model.name") or found.get("gen_ai.response.model"),
        "modelParameters": _parsed(found.get(f"{_PREFIX}model.parameters")) or _request(found),
        "usageDetails": _parsed(found.get(f"{_PREFIX}usage_details")) or _usage(found),
        "costDetails": costs,
        "totalCost": costs.get("total"),
        "completionStartTime": _parsed(found.get(f"{_PREFIX}completion_start_time")),
        "promptName": found.get(f"{_PREFIX}prompt.name"),
        "promptVersion": found.get(f"{_PREFIX}prompt.version"),
    }


def _request(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model options that have names of OpenTelemetry's conventions."""
    options = {
        name.removeprefix("gen_ai.request."): value
        for name, value in found.items()
        if name.startswith("gen_ai.request.")
    }
    return {name: value for name, value in options.items() if name != "model"}


def _usage(found: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens that have names of OpenTelemetry's conventions.

    There, cached tokens are part of the input; Langfuse counts each token once.
    """
    usage = {
        name: found[f"gen_ai.usage.{theirs}"]
        for theirs, (name, _) in _USAGE.items()
        if f"gen_ai.usage.{theirs}" in found
    }
    for name, whole in _USAGE.values():
        if whole in usage and name in usage:
            usage[whole] -= usage[name]
    return usage


def _below(found: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {
        name.removeprefix(prefix): _parsed(value) for name, value in found.items() if name.startswith(prefix)
    }


def _value(value: Any) -> Any:
    """Return the value of an attribute of OpenTelemetry's protocol."""
    kind = value.WhichOneof("value")
    found = getattr(value, kind) if kind else None
    return (
        [_value(each) for each in cast("Iterable[Any]", value.array_value.values)]
        if kind == "array_value"
        else found
    )


def _parsed(value: Any) -> Any:
    """Parse a value as JSON; return it unchanged if it is not JSON."""
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


class _LangfuseHttp(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: LangfuseServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """No-op: clients may disconnect."""


class _LangfuseHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url, status = urlsplit(self.path), self._owner.status
        try:
            found = self._owner.answer(url.path, dict(parse_qsl(url.query)))
        except Refused as error:
            found, status = {"message": str(error)}, 400
        self._answer(json.dumps(found).encode(), "application/json", status)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        time.sleep(self._owner.latency)
        status = self._owner.status
        if status != 200:
            self._answer(b"{}", "application/json", status)
            return
        self._answer(*self._owner.take(self.path, body), 202 if self.path.endswith("/scores") else 200)

    @property
    def _owner(self) -> LangfuseServer:
        return cast("_LangfuseHttp", self.server).owner

    def _answer(self, body: bytes, kind: str, status: int) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """No-op: requests are not logged."""
