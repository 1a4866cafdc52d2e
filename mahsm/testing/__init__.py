"""Tools for your own tests: real clients of models and traces, with scripted answers.

- `_call`               `Call`: a request to a model
- `_answers`            `Reply` and `ToolCall`: its answers; the model that gives them
- `_server`             `ModelServer`: a server of OpenAI's and Anthropic's APIs on loopback
- `_loopback_provider`  `Provider`: such a server with rate limits, in a process of its own
- `_langfuse_server`    `LangfuseServer`: receives traces like Langfuse, and serves its API
- `_langfuse_api`       its pages of observations and scores
- `_clock`              `Clock`: a fake clock, for rate limits
- `_fake_lm`            `FakeLM`: a `dspy.LM` without a server
- `_fake_chat_model`    `FakeChatModel`: a LangChain chat model without a server

The last three import DSPy, LangChain and LangGraph. They are loaded when they are first used, and so is
`item_error`, which creates an `ItemError`.

A `ModelServer` consists of:

- `_http`, `_routes`, `_endpoint`  requests over HTTP, and their paths
- `_wire`                `Wire`: an API of a provider: reads its requests, writes its answers and errors
- `_chat_completions`, `_responses`, `_anthropic_messages`  the three of them
- `_answering`           answers requests of all APIs: scripted, cached and charged
- `_prompt_cache`        `PromptCache`: tokens of prefixes that were seen before
- `_bill`                `Bill`: what answers cost
- `_batch_jobs`          `BatchJobs`: how batch jobs go on and end, as the test wants it
- `_job_registry`, `_batch_job`, `_faults`  all jobs; one job and its statuses; faults of their endpoints
- `_openai_files`, `_openai_batch_file`, `_openai_batches`, `_anthropic_batches`  the endpoints of jobs
- `_pages`               pages of lists, and metadata
"""

from typing import TYPE_CHECKING, Any

from mahsm._lazy import attach
from mahsm.testing._answers import Reply as Reply
from mahsm.testing._answers import StatusError as StatusError
from mahsm.testing._answers import ToolCall as ToolCall
from mahsm.testing._batch_jobs import BatchJobs as BatchJobs
from mahsm.testing._bill import Bill as Bill
from mahsm.testing._bill import Charge as Charge
from mahsm.testing._call import Call as Call
from mahsm.testing._langfuse_server import LangfuseServer as LangfuseServer
from mahsm.testing._loopback_provider import Provider as Provider
from mahsm.testing._loopback_provider import ProviderReport as ProviderReport
from mahsm.testing._prompt_cache import PromptCache as PromptCache
from mahsm.testing._server import ModelServer as ModelServer

if TYPE_CHECKING:
    from mahsm.policies._internal import item_error as item_error
    from mahsm.testing._clock import Clock as Clock
    from mahsm.testing._fake_chat_model import FakeChatModel as FakeChatModel
    from mahsm.testing._fake_lm import FakeLM as FakeLM

__all__ = [
    "BatchJobs",
    "Bill",
    "Call",
    "Charge",
    "Clock",
    "FakeChatModel",
    "FakeLM",
    "LangfuseServer",
    "ModelServer",
    "PromptCache",
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
