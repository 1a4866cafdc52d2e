"""OpenAI's Responses API: `/v1/responses`."""

import json
import time
from collections.abc import Iterator
from typing import Any

from mahsm.testing._answers import Reply, pieces_of
from mahsm.testing._call import Call
from mahsm.testing._wire import Body, Tokens, Wire, event, require


def _check(body: Body) -> None:
    require(body, "model", "input")


def _messages(body: Body) -> list[Body]:
    """Return the instructions and the items of the input as messages."""
    given: Any = body["input"]
    items: list[Body] = [{"role": "user", "content": given}] if isinstance(given, str) else given
    instructions = body.get("instructions")
    before: list[Body] = [{"role": "system", "content": instructions}] if instructions else []
    return before + [message for item in items for message in _message(item)]


def _message(item: Body) -> list[Body]:
    kind = item.get("type", "message")
    if kind == "message":
        return [{"role": item["role"], "content": item["content"]}]
    if kind == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        asked = {"id": item["call_id"], "type": "function", "function": function}
        return [{"role": "assistant", "content": None, "tool_calls": [asked]}]
    if kind == "function_call_output":
        return [{"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}]
    return []


def _answer(call: Call, reply: Reply, tokens: Tokens, number: int) -> Body:
    return {**_head(call, number), "status": "completed", "output": _items(call, reply, number)} | {
        "usage": {
            "input_tokens": tokens.input,
            "input_tokens_details": {"cached_tokens": tokens.cached or 0},
            "output_tokens": tokens.output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": tokens.input + tokens.output,
        }
    }


def _head(call: Call, number: int) -> Body:
    asked = ("instructions", "max_output_tokens", "temperature", "top_p", "reasoning", "text")
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "model": call.model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "metadata": call.body.get("metadata") or {},
        "parallel_tool_calls": True,
        "tool_choice": call.body.get("tool_choice") or "auto",
        "tools": call.body.get("tools") or [],
        **{name: call.body.get(name) for name in asked},
    }


def _items(call: Call, reply: Reply, number: int) -> list[Body]:
    """Return the output: a message with the text, and a function call for each tool."""
    text = reply.text(call)
    asked: list[Body] = [
        {
            "id": f"fc_{number}_{index}",
            "type": "function_call",
            "status": "completed",
            "call_id": id,
            "name": one.name,
            "arguments": json.dumps(dict(one.args)),
        }
        for index, (id, one) in enumerate(reply.asked_tools(call))
    ]
    content: list[Body] = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    message: Body = {"id": f"msg_{number}", "type": "message", "status": "completed", "role": "assistant"}
    return [{**message, "content": content}, *asked] if text or not asked else asked


def _events(call: Call, reply: Reply, tokens: Tokens, number: int) -> Iterator[str]:
    """Stream the answer: each item opened, in pieces, and done."""
    order = iter(range(1_000_000_000))
    yield event({"type": "response.created", "sequence_number": next(order), "response": _head(call, number)})
    for index, item in enumerate(_items(call, reply, number)):
        for data in _item_events(item):
            yield event({**data, "sequence_number": next(order), "output_index": index})
    whole = _answer(call, reply, tokens, number)
    yield event({"type": "response.completed", "sequence_number": next(order), "response": whole})


def _item_events(item: Body) -> Iterator[Body]:
    where = {"item_id": item["id"], "content_index": 0}
    if item["type"] == "message":
        part = item["content"][0]
        yield {"type": "response.output_item.added", "item": {**item, "status": "in_progress", "content": []}}
        yield {"type": "response.content_part.added", **where, "part": {**part, "text": ""}}
        for piece in pieces_of(part["text"]):
            yield {"type": "response.output_text.delta", **where, "delta": piece, "logprobs": []}
        yield {"type": "response.output_text.done", **where, "text": part["text"], "logprobs": []}
        yield {"type": "response.content_part.done", **where, "part": part}
    else:
        kind, called = "response.function_call_arguments", {"item_id": item["id"]}
        yield {"type": "response.output_item.added", "item": {**item, "arguments": ""}}
        for piece in pieces_of(item["arguments"]):
            yield {"type": f"{kind}.delta", **called, "delta": piece}
        yield {"type": f"{kind}.done", **called, "name": item["name"], "arguments": item["arguments"]}
    yield {"type": "response.output_item.done", "item": item}


RESPONSES = Wire("openai", "/v1/responses", _check, _messages, _answer, _events)
