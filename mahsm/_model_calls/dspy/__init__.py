"""DSPy's calls: language models and adapters that report what they do, in place of the user's and otherwise the same.

- `settings`  DSPy's settings in a block in which its calls are seen
- `models`, `adapters`  what stands in these for the user's language models and adapters
- `answers`   what DSPy says of a call that has ended
- `around`    the context of the block, for DSPy's own threads
- `bars`      DSPy's progress bars, which several threads show

DSPy is not imported here: whoever uses it has imported it.
"""

from mahsm._model_calls.dspy.answers import unparsed_in as unparsed_in
from mahsm._model_calls.dspy.around import is_watching as is_watching
from mahsm._model_calls.dspy.around import regained as regained
from mahsm._model_calls.dspy.models import blocking_calls as blocking_calls
from mahsm._model_calls.dspy.models import watched_lm as watched_lm
from mahsm._model_calls.dspy.settings import watch_here as watch_here
from mahsm._model_calls.dspy.settings import watched_settings as watched_settings

__all__ = ["blocking_calls", "is_watching", "regained", "unparsed_in", "watch_here", "watched_lm", "watched_settings"]
