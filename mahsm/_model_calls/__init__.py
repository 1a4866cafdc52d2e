"""One call of a model: seen where it is made, let through, counted, recorded.

- `calls`           what holds for calls here; begins and ends of calls
- `observe`         seeing the calls of DSPy's and LangChain's models in a block
- `dspy`            language models and adapters of DSPy's
- `langchain`       handlers of LangChain's; `client_retries`: the retries of the clients below
- `meters`          counters that budgets and limits read
- `records`         what calls took, by model, node and edge run; `usage`: `mahsm.usage()`
- `prices`          of models whose clients do not say what a call costs
"""

from mahsm._model_calls import calls as calls
from mahsm._model_calls.calls import calls_refused as calls_refused
from mahsm._model_calls.dspy import blocking_calls as blocking_calls
from mahsm._model_calls.dspy import is_observed as is_observed
from mahsm._model_calls.dspy import observe_here as observe_here
from mahsm._model_calls.dspy import observed_lm as observed_lm
from mahsm._model_calls.dspy import restored_context as restored_context
from mahsm._model_calls.dspy import unparsed_in as unparsed_in
from mahsm._model_calls.langchain import gated as gated
from mahsm._model_calls.meters import AttemptCounter as AttemptCounter
from mahsm._model_calls.meters import Meter as Meter
from mahsm._model_calls.meters import count_attempt as count_attempt
from mahsm._model_calls.meters import in_attempt as in_attempt
from mahsm._model_calls.meters import is_metered as is_metered
from mahsm._model_calls.meters import metered as metered
from mahsm._model_calls.observe import observed as observed
from mahsm._model_calls.records import EdgeUsage as EdgeUsage
from mahsm._model_calls.records import Ledger as Ledger
from mahsm._model_calls.records import Usage as Usage
from mahsm._model_calls.records import added_up as added_up
from mahsm._model_calls.records import edge_run as edge_run
from mahsm._model_calls.records import is_recorded as is_recorded
from mahsm._model_calls.records import usage_of_edge_run as usage_of_edge_run
from mahsm._model_calls.usage import usage as usage

__all__ = [
    "AttemptCounter",
    "EdgeUsage",
    "Ledger",
    "Meter",
    "Usage",
    "added_up",
    "blocking_calls",
    "calls",
    "calls_refused",
    "count_attempt",
    "edge_run",
    "gated",
    "in_attempt",
    "is_metered",
    "is_observed",
    "is_recorded",
    "metered",
    "observe_here",
    "observed",
    "observed_lm",
    "restored_context",
    "unparsed_in",
    "usage",
    "usage_of_edge_run",
]
