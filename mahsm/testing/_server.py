"""An OpenAI-compatible server on loopback, with scripted answers."""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from mahsm.testing._answers import Answers, Call, Model, Reply, pieces_of, tokens_of

if TYPE_CHECKING:
    import dspy


@dataclass
class ModelServer:
    """An OpenAI-compatible server on loopback, for tests without a network or a key.

    Args:
        answers: Its answers: a single answer for every call; a list of answers, of which the last one is
            repeated; or a function of the `Call`. An answer is a string, a mapping (the fields of a DSPy
            answer), a `ToolCall` or a list of them, or a `Reply` for more.
        latency: Seconds until each answer.

    Attributes:
        calls: The requests so far, in order of arrival.
        answering: The number of requests in progress.
        most_at_once: The highest number of requests that were in progress at the same time.
        raised: Errors that the function of the answers has raised, such as failed assertions. Clients get a
            status of 500.

    Raises:
        Exception: at the end of the block, the first error that the function of the answers has raised.

    Example:
        >>> import dspy
        >>> from mahsm import vmap
        >>> from mahsm.testing import ModelServer
        >>> measure = dspy.Predict("item -> length: int")
        >>> edge = vmap(measure, batch_key="words", out_key="lengths", result="length")
        >>> server = ModelServer(lambda call: {"length": len(call.field("item"))})
        >>> with server, dspy.context(lm=server.lm()):
        ...     edge.invoke({"words": ["one", "three"]})
        {'lengths': [3, 5]}
        >>> len(server.calls)
        2
    """

    answers: Answers = ""
    latency: float = 0.0

    def __post_init__(self) -> None:
        self.raised: list[Exception] = []
        self._model = Model(self.answers, "ModelServer")
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.01,), name="mahsm-model-server", daemon=True
        )

    @property
    def calls(self) -> list[Call]:
        return self._model.calls

    @property
    def answering(self) -> int:
        return self._model.answering

    @property
    def most_at_once(self) -> int:
        return self._model.most_at_once

    @property
    def base_url(self) -> str:
        """The `api_base` or `base_url` for clients."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def lm(self, model: str = "openai/fake", **options: Any) -> "dspy.LM":
        """Return a real DSPy client of this server, by default without cache and retries."""
        return client(self.base_url, model, options)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        if self.raised and error is None:
            raise self.raised[0]


def client(base_url: str, model: str, options: Mapping[str, Any]) -> "dspy.LM":
    """Return a DSPy client of a server on loopback, by default without cache and retries."""
    # LiteLLM then reads prices from its package, not from the network.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import dspy

    defaults: dict[str, Any] = {"api_base": base_url, "api_key": "test", "cache": False, "num_retries": 0}
    return dspy.LM(model, **{**defaults, **options})


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    owner: ModelServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that have disconnected."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        server = cast("_Http", self.server).owner
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if not self.path.endswith("/chat/completions"):
            self._send(404, _error("This server only has /v1/chat/completions", 404))
            return
        model, status = server._model, 500  # pyright: ignore[reportPrivateUsage]
        try:
            key = self.headers.get("Authorization", "").removeprefix("Bearer ")
            call, reply = model.begin(str(body.get("model", "")), body.get("messages", []), body, key)
        except Exception as error:  # noqa: BLE001  raised by a function of the test
            server.raised.append(error)
            self._send(500, _error(f"answers raised {error!r}", 500))
            return
        time.sleep(server.latency if reply.latency is None else reply.latency)
        try:
            status = reply.status
            if body.get("stream") and status < 400 and reply.raw is None:
                self._stream(call, reply)
            else:
                self._send(status, _payload(call, reply), reply.retry_after)
        except ConnectionError:
            # The client was cancelled.
            self.close_connection = True
        finally:
            model.end(call, status)

    def _send(self, status: int, payload: bytes, retry_after: float | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        if retry_after is not None:
            self.send_header("Retry-After", f"{retry_after:g}")
        self.end_headers()
        self.wfile.write(payload)

    def _stream(self, call: Call, reply: Reply) -> None:
        """Send the answer as server-sent events, word by word."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for delta in [*_deltas(call, reply), None]:
            ended = None if delta is not None else _finish(reply)
            choice: dict[str, Any] = {"index": 0, "delta": delta or {}, "finish_reason": ended}
            self._event({**_answer(call, "chat.completion.chunk"), "choices": [choice]})
        if (call.body.get("stream_options") or {}).get("include_usage"):
            self._event(
                {**_answer(call, "chat.completion.chunk"), "choices": [], "usage": _usage(call, reply)}
            )
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """No-op: the requests are in `ModelServer.calls`."""


def _payload(call: Call, reply: Reply) -> bytes:
    if reply.raw is not None:
        return reply.raw
    if reply.status >= 400:
        return _error(str(reply.content), reply.status)
    message: dict[str, Any] = {"role": "assistant", "content": reply.text(call)}
    if reply.tool_calls:
        message |= {"content": message["content"] or None, "tool_calls": _tool_calls(call, reply)}
    choice = {"index": 0, "message": message, "finish_reason": _finish(reply)}
    return json.dumps(
        {**_answer(call, "chat.completion"), "choices": [choice], "usage": _usage(call, reply)}
    ).encode()


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.tool_calls else "stop"


def _tool_calls(call: Call, reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": id,
            "type": "function",
            "function": {"name": one.name, "arguments": json.dumps(dict(one.args))},
        }
        for id, one in reply.asked_tools(call)
    ]


def _deltas(call: Call, reply: Reply) -> Iterator[dict[str, Any]]:
    """Split an answer into deltas: its words, and each tool call followed by its arguments."""
    yield {"role": "assistant", "content": ""}
    yield from ({"content": piece} for piece in pieces_of(reply.text(call)))
    for index, one in enumerate(_tool_calls(call, reply)):
        arguments = one["function"]["arguments"]
        yield {"tool_calls": [{**one, "index": index, "function": {**one["function"], "arguments": ""}}]}
        yield from (
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            for piece in pieces_of(arguments)
        )


def _answer(call: Call, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-test", "object": kind, "created": int(time.time()), "model": call.model}


def _usage(call: Call, reply: Reply) -> dict[str, int]:
    prompt, completion = tokens_of(call, reply)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _error(message: str, status: int) -> bytes:
    kind = (
        "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    )
    return json.dumps({"error": {"message": message, "type": kind, "code": None, "param": None}}).encode()
