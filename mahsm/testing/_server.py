"""A server that speaks the OpenAI chat API on loopback, and answers as a test says."""

import itertools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, cast

if TYPE_CHECKING:
    import dspy


@dataclass
class Call:
    """One request that the server got.

    Attributes:
        model: The model asked for.
        messages: The messages, as the client sent them.
        body: The whole request.
        began: `time.monotonic()` when it came.
        ended: `time.monotonic()` when it was answered, or None while it is not.
        status: HTTP status of the answer, or None while there is none.
    """

    model: str
    messages: list[dict[str, Any]]
    body: dict[str, Any]
    began: float
    ended: float | None = None
    status: int | None = None

    @property
    def text(self) -> str:
        """The content of the last message."""
        return str(self.messages[-1]["content"]) if self.messages else ""

    def field(self, name: str) -> str:
        """The value that a DSPy prompt gives for an input field.

        Raises:
            KeyError: if the last message has no such field.
        """
        marker = f"[[ ## {name} ## ]]\n"
        if marker not in self.text:
            raise KeyError(name)
        return re.split(r"\n\n(?:\[\[ ## |Respond with the )", self.text.split(marker, 1)[1], maxsplit=1)[0]


@dataclass(frozen=True)
class Reply:
    """An answer of the server.

    Attributes:
        content: The model's text; or a mapping, which becomes the fields of a DSPy answer.
        status: HTTP status; from 400 on, `content` is the error's message.
        retry_after: Seconds of a Retry-After header.
        latency: Seconds that this answer takes, in place of the server's.
        usage: Tokens in and out; by default a quarter of the characters, at least 1.
        raw: Bytes to send as they are in place of a well-formed answer.
    """

    content: str | Mapping[str, object] = ""
    status: int = 200
    retry_after: float | None = None
    latency: float | None = None
    usage: tuple[int, int] | None = None
    raw: bytes | None = None

    @classmethod
    def rate_limited(cls, retry_after: float | None = None) -> "Reply":
        """A 429."""
        return cls("Rate limit reached", status=429, retry_after=retry_after)

    @classmethod
    def failed(cls, status: int = 500) -> "Reply":
        """An error of the server or of the request."""
        return cls(f"Status {status}", status=status)

    @classmethod
    def malformed(cls) -> "Reply":
        """A 200 whose body is no JSON."""
        return cls(raw=b'{"choices": [{"mess')


Answer: TypeAlias = str | Mapping[str, object] | Reply
Answers: TypeAlias = Answer | Iterable[Answer] | Callable[[Call], Answer]


@dataclass
class ModelServer:
    """An OpenAI-compatible server on loopback, for tests without a network or a key.

    Args:
        answers: What it answers: always the same; or one of a list after the other, the last one again and again; or what a
            function of the `Call` returns. A text is the model's text, a mapping the fields of a DSPy answer, and a `Reply`
            says more.
        latency: Seconds that each answer takes.

    Attributes:
        calls: The requests so far, in the order in which they came.
        answering: Requests that are being answered now.
        most_at_once: The most that were being answered at the same time.

    Example:
        >>> import dspy
        >>> from mahsm import vmap
        >>> from mahsm.testing import ModelServer
        >>> edge = vmap(dspy.Predict("item -> length: int"), batch_key="words", out_key="lengths", result="length")
        >>> with ModelServer(lambda call: {"length": len(call.field("item"))}) as server, dspy.context(lm=server.lm()):
        ...     edge.invoke({"words": ["one", "three"]})
        {'lengths': [3, 5]}
        >>> len(server.calls)
        2
    """

    answers: Answers = ""
    latency: float = 0.0
    calls: list[Call] = field(default_factory=list["Call"], init=False)
    answering: int = field(default=0, init=False)
    most_at_once: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._answer = _chooser(self.answers)
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), name="mahsm-model-server", daemon=True)

    @property
    def base_url(self) -> str:
        """What clients take as `api_base` or `base_url`."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def lm(self, model: str = "openai/fake", **options: Any) -> "dspy.LM":
        """A real DSPy client of this server, without cache and retries unless `options` say otherwise."""
        return client(self.base_url, model, options)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _begin(self, body: dict[str, Any]) -> tuple[Call, Reply]:
        call = Call(str(body.get("model", "")), body.get("messages", []), body, time.monotonic())
        with self._lock:
            self.calls.append(call)
            self.answering += 1
            self.most_at_once = max(self.most_at_once, self.answering)
        try:
            answer = self._answer(call)
        except Exception as error:  # noqa: BLE001  a test's own function: its client shall hear of it
            answer = Reply(f"answers raised {error!r}", status=500)
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        time.sleep(self.latency if reply.latency is None else reply.latency)
        return call, reply

    def _end(self, call: Call, status: int) -> None:
        with self._lock:
            self.answering -= 1
            call.status = status
            call.ended = time.monotonic()


def client(base_url: str, model: str, options: Mapping[str, Any]) -> "dspy.LM":
    """A DSPy client of a server on loopback, without cache and retries unless `options` say otherwise."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # prices from the package, not from the network
    import dspy

    defaults: dict[str, Any] = {"api_base": base_url, "api_key": "test", "cache": False, "num_retries": 0}
    return dspy.LM(model, **{**defaults, **options})


def tokens_of(call: Call, reply: Reply) -> tuple[int, int]:
    """Tokens in and out of a call."""
    return reply.usage or (_tokens(json.dumps(call.messages)), _tokens(_text(reply)))


def _chooser(answers: Answers) -> Callable[[Call], Answer]:
    if callable(answers):
        return answers
    if isinstance(answers, str | Mapping | Reply):
        return lambda _: cast("Answer", answers)
    following = list(answers)
    if not following:
        raise ValueError("ModelServer: answers is empty; expected at least one answer.")
    position = itertools.count()
    return lambda _: following[min(next(position), len(following) - 1)]


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    owner: ModelServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that are gone."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        server = cast("_Http", self.server).owner
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if not self.path.endswith("/chat/completions"):
            self._send(404, _error("This server only knows /v1/chat/completions", 404))
            return
        status = 500
        call, reply = server._begin(body)  # pyright: ignore[reportPrivateUsage]
        try:
            status = reply.status
            self._send(status, _payload(call, reply), reply.retry_after)
        except ConnectionError:  # the client was cancelled
            self.close_connection = True
        finally:
            server._end(call, status)  # pyright: ignore[reportPrivateUsage]

    def _send(self, status: int, payload: bytes, retry_after: float | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        if retry_after is not None:
            self.send_header("Retry-After", f"{retry_after:g}")
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the calls are in `ModelServer.calls`."""


def _payload(call: Call, reply: Reply) -> bytes:
    if reply.raw is not None:
        return reply.raw
    if reply.status >= 400:
        return _error(str(reply.content), reply.status)
    prompt, completion = tokens_of(call, reply)
    answer = {
        "id": "chatcmpl-test",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": _text(reply)}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
    }
    return json.dumps(answer).encode()


def _error(message: str, status: int) -> bytes:
    kind = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    return json.dumps({"error": {"message": message, "type": kind, "code": None, "param": None}}).encode()


def _text(reply: Reply) -> str:
    return reply.content if isinstance(reply.content, str) else _fields(reply.content)


def _fields(values: Mapping[str, object]) -> str:
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return "\n\n".join([*(f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()), "[[ ## completed ## ]]"])


def _tokens(text: str) -> int:
    return max(1, len(text) // 4)
