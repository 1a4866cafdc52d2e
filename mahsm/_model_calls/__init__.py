"""Calls of models: observed where they are made, admitted by rate limits, counted, and recorded.

- `calls`           one call: its options, its start and its end
- `counting`        the counters around the code that runs here
- `records`         the counts: total usage, by model, node and edge run; of budgets and attempts
- `observe`         observing DSPy's and LangChain's calls in a block
- `dspy`            observing DSPy's calls, by views of its language models and adapters
- `langchain`       observing LangChain's calls, by callback handlers
- `client_retries`  turning off the retries of providers' clients
- `usage_block`     `mahsm.usage()`
- `prices`          prices of models whose clients do not report a cost

What imports LangChain is imported when it is first used: a direct call of a DSPy model needs none of it.
"""

from typing import TYPE_CHECKING, Any

from mahsm._lazy import attach
from mahsm._model_calls import calls as calls
from mahsm._model_calls.calls import calls_refused as calls_refused
from mahsm._model_calls.counting import added_up as added_up
from mahsm._model_calls.counting import count_attempt as count_attempt
from mahsm._model_calls.counting import edge_run as edge_run
from mahsm._model_calls.counting import in_attempt as in_attempt
from mahsm._model_calls.counting import is_recorded as is_recorded
from mahsm._model_calls.counting import metered as metered
from mahsm._model_calls.counting import meters as meters
from mahsm._model_calls.counting import usage_of_edge_run as usage_of_edge_run
from mahsm._model_calls.dspy import around_thread as around_thread
from mahsm._model_calls.dspy import heard_lm as heard_lm
from mahsm._model_calls.dspy import is_observed as is_observed
from mahsm._model_calls.dspy import observe_here as observe_here
from mahsm._model_calls.dspy import observed_lm as observed_lm
from mahsm._model_calls.dspy import plain_adapter as plain_adapter
from mahsm._model_calls.dspy import restored_context as restored_context
from mahsm._model_calls.dspy import unparsed_in as unparsed_in
from mahsm._model_calls.prices import BATCH_SHARE as BATCH_SHARE
from mahsm._model_calls.prices import has_batch_price as has_batch_price
from mahsm._model_calls.prices import priced_models as priced_models
from mahsm._model_calls.prices import rates_of as rates_of
from mahsm._model_calls.records import AttemptCounter as AttemptCounter
from mahsm._model_calls.records import EdgeUsage as EdgeUsage
from mahsm._model_calls.records import Ledger as Ledger
from mahsm._model_calls.records import Meter as Meter
from mahsm._model_calls.records import Usage as Usage

if TYPE_CHECKING:
    from mahsm._model_calls import langchain as langchain
    from mahsm._model_calls.langchain import answer_of_message as answer_of_message
    from mahsm._model_calls.observe import observed as observed
    from mahsm._model_calls.usage_block import usage as usage

__all__ = [
    "BATCH_SHARE",
    "AttemptCounter",
    "EdgeUsage",
    "Ledger",
    "Meter",
    "Usage",
    "added_up",
    "answer_of_message",
    "around_thread",
    "calls",
    "calls_refused",
    "count_attempt",
    "edge_run",
    "has_batch_price",
    "heard_lm",
    "in_attempt",
    "is_observed",
    "is_recorded",
    "metered",
    "meters",
    "observe_here",
    "observed",
    "observed_lm",
    "plain_adapter",
    "priced_models",
    "rates_of",
    "restored_context",
    "unparsed_in",
    "usage",
    "usage_of_edge_run",
]
_HOMES = {
    "answer_of_message": "mahsm._model_calls.langchain",
    "langchain": "mahsm._model_calls.langchain",
    "observed": "mahsm._model_calls.observe",
    "usage": "mahsm._model_calls.usage_block",
}


def __getattr__(name: str) -> Any:
    return attach(__name__, _HOMES, name)
