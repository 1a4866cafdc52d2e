"""OpenAI's chat API: `/v1/chat/completions`."""

import json
import time
from collections.abc import Iterator
from typing import Any

from mahsm.testing._answers import Reply, pieces_of
from mahsm.testing._call import Call
from mahsm.testing._wire import Body, Tokens, Wire


def _check(body: Body) -> None:
    """No-op: the chat API of this server takes any request."""


def _messages(body: Body) -> list[Body]:
    return body.get("messages") or []


def _answer(call: Call, reply: Reply, tokens: Tokens, number: int) -> Body:
    message: Body = {"role": "assistant", "content": reply.text(call)}
    if reply.tool_calls:
        message |= {"content": message["content"] or None, "tool_calls": _tool_calls(call, reply)}
    choice = {"index": 0, "message": message, "finish_reason": _finish(reply)}
    return {**_head(call, "chat.completion", number), "choices": [choice], "usage": _usage(tokens)}


def _events(call: Call, reply: Reply, tokens: Tokens, number: int) -> Iterator[str]:
    """Stream the answer word by word."""
    head = _head(call, "chat.completion.chunk", number)
    for delta in [*_deltas(call, reply), None]:
        ended = None if delta is not None else _finish(reply)
        choice: Body = {"index": 0, "delta": delta or {}, "finish_reason": ended}
        yield _chunk({**head, "choices": [choice]})
    if (call.body.get("stream_options") or {}).get("include_usage"):
        yield _chunk({**head, "choices": [], "usage": _usage(tokens)})
    yield "data: [DONE]\n\n"


def _chunk(data: Body) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.tool_calls else "stop"


def _tool_calls(call: Call, reply: Reply) -> list[Body]:
    return [
        {
            "id": id,
            "type": "function",
            "function": {"name": one.name, "arguments": json.dumps(dict(one.args))},
        }
        for id, one in reply.asked_tools(call)
    ]


def _deltas(call: Call, reply: Reply) -> Iterator[Body]:
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


def _head(call: Call, kind: str, number: int) -> Body:
    return {"id": f"chatcmpl-{number}", "object": kind, "created": int(time.time()), "model": call.model}


def _usage(tokens: Tokens) -> Body:
    usage: dict[str, Any] = {
        "prompt_tokens": tokens.input,
        "completion_tokens": tokens.output,
        "total_tokens": tokens.input + tokens.output,
    }
    if tokens.cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": tokens.cached}
    return usage


CHAT = Wire("openai", "/v1/chat/completions", _check, _messages, _answer, _events)
