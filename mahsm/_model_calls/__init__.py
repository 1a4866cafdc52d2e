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
from mahsm._model_calls.dspy import is_watching as is_watching
from mahsm._model_calls.dspy import regained as regained
from mahsm._model_calls.dspy import unparsed_in as unparsed_in
from mahsm._model_calls.dspy import watch_here as watch_here
from mahsm._model_calls.dspy import watched_lm as watched_lm
from mahsm._model_calls.langchain import gated as gated
from mahsm._model_calls.meters import Attempt as Attempt
from mahsm._model_calls.meters import Meter as Meter
from mahsm._model_calls.meters import count_attempt as count_attempt
from mahsm._model_calls.meters import in_attempt as in_attempt
from mahsm._model_calls.meters import is_metered as is_metered
from mahsm._model_calls.meters import metered as metered
from mahsm._model_calls.observe import watched as watched
from mahsm._model_calls.records import EdgeUsage as EdgeUsage
from mahsm._model_calls.records import Ledger as Ledger
from mahsm._model_calls.records import Usage as Usage
from mahsm._model_calls.records import added_up as added_up
from mahsm._model_calls.records import edge_run as edge_run
from mahsm._model_calls.records import of_edge_run as of_edge_run
from mahsm._model_calls.usage import usage as usage

__all__ = [
    "Attempt",
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
    "is_watching",
    "metered",
    "of_edge_run",
    "regained",
    "unparsed_in",
    "usage",
    "watch_here",
    "watched",
    "watched_lm",
]
