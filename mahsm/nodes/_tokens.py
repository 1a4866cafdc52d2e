"""Streaming the tokens of a DSPy module."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast
from uuid import UUID, uuid4

import anyio
import anyio.to_thread
import dspy
from dspy.streaming import StreamListener, StreamResponse
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from typing_extensions import TypedDict

from mahsm._common import shown
from mahsm.errors import NodeError
from mahsm.nodes._stream_target import ITEM, StreamTarget


class TokenEvent(TypedDict):
    """The event of a token in `stream_mode="custom"`.

    Attributes:
        node: Name of the `dspy_node`.
        predictor: Name of the predictor that wrote it, as in `named_predictors`.
        field: The output field.
        token: The token, a string.
        last: True if it ends the field.
        item: The path of indices, through nested edges, of its item; `()` outside edges.
    """

    node: str
    predictor: str
    field: str
    token: str
    last: bool
    item: tuple[int, ...]


def streamed_fields(reader: str, module: Any, stream: bool | Sequence[str]) -> tuple[str, ...]:
    """Return the fields to stream: those that are named, or all outputs that are strings.

    Raises:
        NodeError: if a field is not a string output of any predictor.
    """
    if stream is False:
        return ()
    predictors = cast("list[Any]", module.predictors())
    texts = list(dict.fromkeys(field for predictor in predictors for field in _texts(predictor)))
    if isinstance(stream, str) or not (stream is True or isinstance(stream, Sequence)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise NodeError(f"{reader}: stream={shown(stream)}; expected True, or a list of output fields.")
    if stream is True and not texts:
        raise NodeError(
            f"{reader}: stream=True, but no predictor of {type(module).__name__} has an output "
            "that is a string."
        )
    for field in () if stream is True else stream:
        if field not in texts:
            known = ", ".join(map(repr, texts)) or "none"
            raise NodeError(f"{reader}: stream has {shown(field)}; outputs that are strings: {known}.")
    return tuple(texts if stream is True else stream)


async def call_streaming(
    node: str,
    module: Any,
    fields: Sequence[str],
    arguments: dict[str, Any],
    config: RunnableConfig,
    place: StreamTarget,
) -> Any:
    """Call the module, and write the tokens of these fields to the graph's streams."""
    tokens = _Tokens(node, module, fields, config, place)
    streaming: dict[str, Any] = {"send_stream": tokens, "stream_listeners": tokens.listeners}
    try:
        with dspy.context(**streaming):
            if hasattr(cast("type[Any]", type(module)), "aforward"):
                result = await module.acall(**arguments)
            else:
                # DSPy can send chunks only from a thread of AnyIO.
                result = await anyio.to_thread.run_sync(
                    partial(module, **arguments), limiter=anyio.CapacityLimiter(1)
                )
        tokens.finish(result)
        return result
    finally:
        tokens.close()


class _Tokens:
    """The stream that DSPy sends the chunks of one call to."""

    def __init__(
        self, node: str, module: Any, fields: Sequence[str], config: RunnableConfig, place: StreamTarget
    ) -> None:
        self._node = node
        self._fields = fields
        self._place = place
        self._by_predictor: dict[int, list[StreamListener]] = defaultdict(list)
        for name, predictor in module.named_predictors():
            for field in _texts(predictor):
                if field in fields:
                    listener = StreamListener(field, predict=predictor, predict_name=name, allow_reuse=True)
                    self._by_predictor[id(predictor)].append(listener)
        self._messages = _Messages(config, place)
        self._sent: set[str] = set()

    @property
    def listeners(self) -> list[StreamListener]:
        return [listener for listeners in self._by_predictor.values() for listener in listeners]

    async def send(self, chunk: Any) -> None:
        for listener in self._by_predictor.get(chunk.predict_id, ()):
            response: Any = cast("Any", listener).receive(chunk)
            if isinstance(response, StreamResponse):
                self._tell(response)

    def finish(self, result: Any) -> None:
        """Send the rest when the call has ended.

        These are tokens that DSPy held back, and fields that were not streamed, as with a cached answer.
        """
        for listener in self.listeners:
            if (response := listener.finalize()) is not None:
                self._tell(response)
        # The node raises an error for results without fields.
        has_fields = isinstance(result, dspy.Example | Mapping)
        given: Any = cast("Any", result) if has_fields else {}
        for field in self._fields:
            if field not in self._sent and isinstance(value := given.get(field), str):
                self._tell(StreamResponse("", field, value, is_last_chunk=True))

    def close(self) -> None:
        """End the messages."""
        self._messages.end()

    def _tell(self, response: StreamResponse) -> None:
        self._sent.add(response.signature_field_name)
        self._place.write(
            TokenEvent(
                node=self._node,
                predictor=response.predict_name,
                field=response.signature_field_name,
                token=response.chunk,
                last=response.is_last_chunk,
                item=self._place.item(),
            )
        )
        self._messages.token(response.chunk, response.signature_field_name)


class _Messages:
    """The same tokens for `stream_mode="messages"`, where each field is a message.

    LangGraph gets tokens by a callback handler. Other handlers, such as tracers, do not get them, since they
    would record a second model call beside the one of DSPy's.
    """

    def __init__(self, config: RunnableConfig, place: StreamTarget) -> None:
        handlers = cast("list[BaseCallbackHandler]", getattr(config.get("callbacks"), "handlers", ()))
        self._handlers = [
            one
            for one in handlers
            if hasattr(one, "tap_output_iter") and not isinstance(one, AsyncCallbackHandler)
        ]
        item = place.item()
        self._metadata = {**place.metadata, ITEM: item} if item else place.metadata
        self._runs: dict[str, UUID] = {}

    def token(self, text: str, field: str) -> None:
        if not self._handlers or not text:
            return
        if field not in self._runs:
            run = self._runs[field] = uuid4()
            for handler in self._handlers:
                handler.on_chat_model_start({}, [[]], run_id=run, metadata=dict(self._metadata))
        run = self._runs[field]
        message = AIMessageChunk(content=text, id=f"run-{run}", additional_kwargs={"field": field})
        for handler in self._handlers:
            handler.on_llm_new_token(text, chunk=ChatGenerationChunk(message=message), run_id=run)

    def end(self) -> None:
        for run in self._runs.values():
            for handler in self._handlers:
                handler.on_llm_end(LLMResult(generations=[]), run_id=run)


def _texts(predictor: Any) -> list[str]:
    return [name for name, info in predictor.signature.output_fields.items() if info.annotation is str]
