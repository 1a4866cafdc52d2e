"""Tools for your own tests: real clients of models and traces, with scripted answers.

- `_answers`          `Call`, `Reply` and `ToolCall`: requests to a model, and its answers
- `_server`           `ModelServer`: an OpenAI-compatible server on loopback
- `_loopback_provider`  `Provider`: such a server with rate limits, in a process of its own
- `_langfuse_server`  `LangfuseServer`: receives traces like Langfuse, and serves its observations API
- `_clock`           `Clock`: a fake clock, for rate limits
- `_fake_lm`          `FakeLM`: a `dspy.LM` without a server
- `_fake_chat_model`  `FakeChatModel`: a LangChain chat model without a server

The last three import DSPy, LangChain and LangGraph. They are loaded when they are first used, and so is
`item_error`, which creates an `ItemError`.
"""

from typing import TYPE_CHECKING, Any

from mahsm._lazy import attach
from mahsm.testing._answers import Call as Call
from mahsm.testing._answers import Reply as Reply
from mahsm.testing._answers import StatusError as StatusError
from mahsm.testing._answers import ToolCall as ToolCall
from mahsm.testing._langfuse_server import LangfuseServer as LangfuseServer
from mahsm.testing._loopback_provider import Provider as Provider
from mahsm.testing._loopback_provider import ProviderReport as ProviderReport
from mahsm.testing._server import ModelServer as ModelServer

if TYPE_CHECKING:
    from mahsm.policies._internal import item_error as item_error
    from mahsm.testing._clock import Clock as Clock
    from mahsm.testing._fake_chat_model import FakeChatModel as FakeChatModel
    from mahsm.testing._fake_lm import FakeLM as FakeLM

__all__ = [
    "Call",
    "Clock",
    "FakeChatModel",
    "FakeLM",
    "LangfuseServer",
    "ModelServer",
    "Provider",
    "ProviderReport",
    "Reply",
    "StatusError",
    "ToolCall",
    "item_error",
]
_HOMES = {
    "Clock": "mahsm.testing._clock",
    "FakeChatModel": "mahsm.testing._fake_chat_model",
    "FakeLM": "mahsm.testing._fake_lm",
    "item_error": "mahsm.policies._internal",
}


def __getattr__(name: str) -> Any:
    return attach(__name__, _HOMES, name)
