"""DSPy's calls: language models and adapters that report what they do, in place of the user's and otherwise
the same.

- `settings`  DSPy's settings in a block in which its calls are seen
- `models`, `adapters`  what stands in these for the user's language models and adapters
- `answers`   what DSPy says of a call that has ended
- `around`    the context of the block, for DSPy's own threads
- `bars`      DSPy's progress bars, which several threads show

DSPy is not imported here: whoever uses it has imported it.
"""

from mahsm._model_calls.dspy.answers import unparsed_in as unparsed_in
from mahsm._model_calls.dspy.around import is_observed as is_observed
from mahsm._model_calls.dspy.around import restored_context as restored_context
from mahsm._model_calls.dspy.models import observed_lm as observed_lm
from mahsm._model_calls.dspy.settings import observe_here as observe_here
from mahsm._model_calls.dspy.settings import observed_settings as observed_settings

__all__ = [
    "is_observed",
    "observe_here",
    "observed_lm",
    "observed_settings",
    "restored_context",
    "unparsed_in",
]
