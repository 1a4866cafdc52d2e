"""HTTP for a `ModelServer`: finds the endpoint of a request, and sends its answer."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from mahsm.testing._answering import Answering, Exchange
from mahsm.testing._chat_completions import CHAT
from mahsm.testing._endpoint import Download, HttpRequest, json_object
from mahsm.testing._faults import Fault, Faults
from mahsm.testing._routes import WIRES, Route
from mahsm.testing._wire import Body, Refusal, Vendor, Wire


@dataclass(frozen=True)
class Site:
    """What a server serves.

    Attributes:
        answering: Answers requests to models.
        latency: Returns the seconds until an answer, unless it says so itself.
        routes: The other endpoints.
        faults: Faults of these.
    """

    answering: Answering
    latency: Callable[[], float]
    routes: Sequence[Route]
    faults: Faults


class Http(ThreadingHTTPServer):
    """An HTTP server on loopback, with a thread for each connection."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, site: Site) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.site = site

    @property
    def base_url(self) -> str:
        """The URL, up to `/v1`."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that have disconnected."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._handle(b"")

    def do_DELETE(self) -> None:
        self._handle(b"")

    def do_POST(self) -> None:
        self._handle(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    @property
    def _site(self) -> Site:
        return cast("Http", self.server).site

    def _handle(self, body: bytes) -> None:
        path = urlsplit(self.path).path
        vendor: Vendor = "anthropic" if "/messages" in path else "openai"
        try:
            wire = next((wire for end, wire in WIRES if self.command == "POST" and path.endswith(end)), None)
            if wire is not None:
                self._complete(wire, body)
            else:
                self._manage(path, body)
        except Refusal as refusal:
            self._send(refusal.status, json.dumps(refusal.body(vendor)).encode(), refusal.retry_after)
        except ConnectionError:
            # The client was cancelled.
            self.close_connection = True

    def _complete(self, wire: Wire, body: bytes) -> None:
        """Answer a request to a model."""
        # Tests of the chat API send requests without a key.
        key = self._key(wire.vendor) if wire is not CHAT else _bearer(self.headers)
        answering = self._site.answering
        exchange = answering.begin(wire, json_object(body), key)
        status, latency = 500, exchange.reply.latency
        try:
            time.sleep(self._site.latency() if latency is None else latency)
            status = exchange.reply.status
            answering.charge(exchange)
            if exchange.call.body.get("stream") and status < 400 and exchange.reply.raw is None:
                self._stream(exchange)
            else:
                self._send(status, exchange.payload, exchange.reply.retry_after)
        finally:
            answering.end(exchange, status)

    def _manage(self, path: str, body: bytes) -> None:
        """Answer a request for files or batch jobs."""
        for route in self._site.routes:
            if (id := route.match(self.command, path)) is not None:
                return self._answer(route, self._request(unquote(id), body))
        paths = ", ".join(["/v1" + end for end, _ in WIRES] + ["/v1/files", "/v1/batches"])
        raise Refusal(404, f"This server only has {paths} and /v1/messages/batches")

    def _request(self, id: str, body: bytes) -> HttpRequest:
        query = dict(parse_qsl(urlsplit(self.path).query))
        headers = {name.lower(): value for name, value in self.headers.items()}
        return HttpRequest(id, query, headers, body, cast("Http", self.server).base_url)

    def _answer(self, route: Route, request: HttpRequest) -> None:
        faults = self._site.faults
        try:
            self._key(route.vendor)
            fault = faults.take(route.step) if route.step is not None else None
            if fault is not None and fault.refusal is not None:
                raise fault.refusal
            answer = route.endpoint(request)
        finally:
            # A test that waits for this request sees what it has done.
            if route.step is not None:
                faults.answered(route.step)
        self._reply(answer, fault)

    def _reply(self, answer: Body | Download, fault: Fault | None) -> None:
        if isinstance(answer, Download):
            data, kind = answer.data, answer.content_type
        else:
            data, kind = json.dumps(answer).encode(), "application/json"
        if fault is None:
            self._send(200, data, kind=kind)
            return
        self.close_connection = True
        if fault.share > 0:
            self._send(200, data, kind=kind, size=int(len(data) * fault.share))

    def _key(self, vendor: Vendor) -> str:
        """Return the API key.

        Raises:
            Refusal: if there is none.
        """
        key = _bearer(self.headers) or (self.headers.get("x-api-key", "") if vendor == "anthropic" else "")
        if not key and vendor == "anthropic":
            raise Refusal(401, "x-api-key header is required")
        if not key:
            raise Refusal(401, "You didn't provide an API key.", code="invalid_api_key")
        if vendor == "anthropic" and "anthropic-version" not in self.headers:
            raise Refusal(400, "anthropic-version: header is required")
        return key

    def _send(
        self,
        status: int,
        payload: bytes,
        retry_after: float | None = None,
        *,
        kind: str = "application/json",
        size: int | None = None,
    ) -> None:
        """Send an answer, or its first `size` bytes."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(payload)))
        if retry_after is not None:
            self.send_header("Retry-After", f"{retry_after:g}")
        self.end_headers()
        self.wfile.write(payload[:size])

    def _stream(self, exchange: Exchange) -> None:
        """Send the answer as server-sent events, word by word."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        wire = exchange.wire
        for event in wire.events(exchange.call, exchange.reply, exchange.tokens, exchange.number):
            self.wfile.write(event.encode())
            self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """No-op: the requests are in `ModelServer.calls`."""


def _bearer(headers: Message) -> str:
    return headers.get("Authorization", "").removeprefix("Bearer ")
