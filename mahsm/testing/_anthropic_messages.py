"""Anthropic's Messages API: `/v1/messages`."""

import json
from collections.abc import Iterator
from typing import Any, cast

from mahsm.testing._answers import Reply, pieces_of
from mahsm.testing._call import Call
from mahsm.testing._wire import Body, Refusal, Tokens, Wire, event, require

_MOST_MARKS = 4


def blocks_of(content: Any) -> list[Body]:
    """Return the blocks of a message or of a system prompt; a string is one block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return cast("list[Body]", content or [])


def prefix_of(body: Body) -> Iterator[Body]:
    """Return the blocks of a request in the order of its prefix: tools, system prompt, messages."""
    yield from body.get("tools") or ()
    yield from blocks_of(body.get("system"))
    for message in body["messages"]:
        for block in blocks_of(message["content"]):
            yield {"role": message["role"], **block}


def _check(body: Body) -> None:
    require(body, "model", "max_tokens", "messages")
    marked = sum("cache_control" in block for block in prefix_of(body))
    if marked > _MOST_MARKS:
        message = f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. Found {marked}."
        raise Refusal(400, message)


def _messages(body: Body) -> list[Body]:
    """Return the system prompt and the messages; results of tools become messages of their own."""
    before: list[Body] = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    return before + [message for given in body["messages"] for message in _split(given)]


def _split(given: Body) -> list[Body]:
    if isinstance(given["content"], str):
        return [given]
    blocks = blocks_of(given["content"])
    results: list[Body] = [
        {"role": "tool", "tool_call_id": block["tool_use_id"], "content": block.get("content")}
        for block in blocks
        if block["type"] == "tool_result"
    ]
    asked: list[Body] = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": json.dumps(block["input"])},
        }
        for block in blocks
        if block["type"] == "tool_use"
    ]
    rest = [block for block in blocks if block["type"] not in ("tool_result", "tool_use")]
    if not rest and not asked:
        return results
    message: Body = {"role": given["role"], "content": rest}
    return [*results, message | ({"tool_calls": asked} if asked else {})]


def _answer(call: Call, reply: Reply, tokens: Tokens, number: int) -> Body:
    return _head(call, number) | {
        "content": _blocks(call, reply),
        "stop_reason": _stop_reason(reply),
        "usage": {**_input_usage(tokens), "output_tokens": tokens.output},
    }


def _head(call: Call, number: int) -> Body:
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _blocks(call: Call, reply: Reply) -> list[Body]:
    text = reply.text(call)
    asked: list[Body] = [
        {"type": "tool_use", "id": id, "name": one.name, "input": dict(one.args)}
        for id, one in reply.asked_tools(call)
    ]
    return [{"type": "text", "text": text}, *asked] if text or not asked else asked


def _stop_reason(reply: Reply) -> str:
    return "tool_use" if reply.tool_calls else "end_turn"


def _input_usage(tokens: Tokens) -> Body:
    """Return the input tokens: what was read from the cache and written to it is not in `input_tokens`."""
    cached = tokens.cached or 0
    return {
        "input_tokens": tokens.input - cached - tokens.written,
        "cache_creation_input_tokens": tokens.written,
        "cache_read_input_tokens": cached,
    }


def _events(call: Call, reply: Reply, tokens: Tokens, number: int) -> Iterator[str]:
    """Stream the answer: each block opened, in pieces, and stopped."""
    inputs = _input_usage(tokens)
    start = {**_head(call, number), "usage": {**inputs, "output_tokens": 1}}
    yield event({"type": "message_start", "message": start})
    for index, block in enumerate(_blocks(call, reply)):
        text = block["type"] == "text"
        opened: Body = {**block, "text": ""} if text else {**block, "input": {}}
        yield event({"type": "content_block_start", "index": index, "content_block": opened})
        for piece in pieces_of(block["text"] if text else json.dumps(block["input"])):
            delta = (
                {"type": "text_delta", "text": piece}
                if text
                else {"type": "input_json_delta", "partial_json": piece}
            )
            yield event({"type": "content_block_delta", "index": index, "delta": delta})
        yield event({"type": "content_block_stop", "index": index})
    ended = {"stop_reason": _stop_reason(reply), "stop_sequence": None}
    yield event(
        {"type": "message_delta", "delta": ended, "usage": {**inputs, "output_tokens": tokens.output}}
    )
    yield event({"type": "message_stop"})


MESSAGES = Wire("anthropic", "/v1/messages", _check, _messages, _answer, _events)
