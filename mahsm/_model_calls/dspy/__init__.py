"""Observing DSPy's calls, by views of the user's language models and adapters.

- `settings`  DSPy's settings in a block whose calls are observed
- `models`    views of language models, and how a call is observed
- `prefixes`  a text in front of prompts, for a provider's cache
- `adapters`  views of adapters
- `answers`   `Answer`s from entries of DSPy's history, and answers that could not be parsed
- `around`    the context of the block, for threads that DSPy starts
- `bars`      DSPy's progress bars, when several threads show them

DSPy is not imported here: code that uses it has imported it.
"""

from mahsm._model_calls.dspy.adapters import plain_adapter as plain_adapter
from mahsm._model_calls.dspy.answers import unparsed_in as unparsed_in
from mahsm._model_calls.dspy.around import around_thread as around_thread
from mahsm._model_calls.dspy.around import is_observed as is_observed
from mahsm._model_calls.dspy.around import restored_context as restored_context
from mahsm._model_calls.dspy.models import heard_lm as heard_lm
from mahsm._model_calls.dspy.models import observed_lm as observed_lm
from mahsm._model_calls.dspy.settings import observe_here as observe_here
from mahsm._model_calls.dspy.settings import observed_settings as observed_settings

__all__ = [
    "around_thread",
    "heard_lm",
    "is_observed",
    "observe_here",
    "observed_lm",
    "observed_settings",
    "plain_adapter",
    "restored_context",
    "unparsed_in",
]
