"""A server on loopback that takes what Langfuse's client sends, and decodes it."""

import gzip
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse


@dataclass
class LangfuseServer:
    """Takes spans and scores.

    Args:
        latency: Seconds until each answer.
        status: The status of each answer.
    """

    latency: float = 0.0
    status: int = 200
    spans: list[Any] = field(default_factory=list[Any])
    scores: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def __enter__(self) -> Self:
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: LangfuseServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_GET(self) -> None:
        project = {"id": "p", "name": "p", "organization": {"id": "o", "name": "o"}, "metadata": {}}
        self._answer(json.dumps({"data": [project]}).encode())

    def do_POST(self) -> None:
        owner = self.server.owner
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        time.sleep(owner.latency)
        if owner.status == 200 and self.path.endswith("/otel/v1/traces"):
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    owner.spans += scope.spans
            self._answer(ExportTraceServiceResponse().SerializeToString(), "application/x-protobuf")
            return
        if owner.status == 200 and self.path.endswith("/scores"):
            owner.scores += json.loads(body)
        self._answer(b'{"successes": [], "errors": []}')

    def _answer(self, body: bytes, kind: str = "application/json") -> None:
        self.send_response(self.server.owner.status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""
