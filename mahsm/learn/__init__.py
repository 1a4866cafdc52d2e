"""Routers that learn from rewards, and estimates of other policies from their logs.

- `_router`      `Router`: chooses an arm for an input, and learns from rewards
- `_learner`     what it does; `_policy`: how it chooses; `_head`: what it knows;
                 `_arguments`: checks of its arguments
- `_features`    inputs as numbers
- `_choice`      `Choice`, and choices that wait for a reward
- `_memory`      what a router keeps; `_journal`: in a file; `_in_store`: in a store of LangGraph
- `_evaluation`  `evaluate`: how good another policy would have been
- `_halting`     `confident`, `no_gain`: when more samples are not worth it
- `_route`       `route`: an edge to one of several targets; `_cascade`: `cascade`, until one is accepted
- `_thresholds`  `thresholds`: when a cascade accepts an answer
- `_attend`      `attend`: a vote with learned weights; `_weights`: how these are fitted
- `_train`       `train`: fits all learning edges of a graph; `_lessons`: how each kind learns;
                 `_trials`: its runs of the graph; `_trial`: one of them; `_trained`: its report
- `logs`         choices with their rewards, in files and lists; `_from_langfuse`: joined from Langfuse
"""

import importlib
from typing import TYPE_CHECKING, Any

from mahsm._lazy import attach
from mahsm.learn import logs as logs
from mahsm.learn._choice import Choice as Choice
from mahsm.learn._evaluation import Estimate as Estimate
from mahsm.learn._evaluation import Evaluation as Evaluation
from mahsm.learn._evaluation import FewEffectiveSamples as FewEffectiveSamples
from mahsm.learn._evaluation import evaluate as evaluate
from mahsm.learn._halting import confident as confident
from mahsm.learn._halting import no_gain as no_gain
from mahsm.learn._thresholds import Tuned as Tuned
from mahsm.learn._thresholds import thresholds as thresholds
from mahsm.learn._trained import ExamplesLeftOut as ExamplesLeftOut
from mahsm.learn._trained import Learned as Learned
from mahsm.learn._trained import Trained as Trained

if TYPE_CHECKING:
    from mahsm.learn._attend import Attend as Attend
    from mahsm.learn._attend import attend as attend
    from mahsm.learn._cascade import cascade as cascade
    from mahsm.learn._route import route as route
    from mahsm.learn._router import Router as Router
    from mahsm.learn._train import atrain as atrain
    from mahsm.learn._train import train as train

__all__ = [
    "Attend",
    "Choice",
    "Estimate",
    "Evaluation",
    "ExamplesLeftOut",
    "FewEffectiveSamples",
    "Learned",
    "Router",
    "Trained",
    "Tuned",
    "atrain",
    "attend",
    "cascade",
    "confident",
    "evaluate",
    "logs",
    "no_gain",
    "route",
    "thresholds",
    "train",
]
_HOMES = {
    "Attend": "mahsm.learn._attend",
    "Router": "mahsm.learn._router",
    "atrain": "mahsm.learn._train",
    "attend": "mahsm.learn._attend",
    "cascade": "mahsm.learn._cascade",
    "route": "mahsm.learn._route",
    "train": "mahsm.learn._train",
}


def __getattr__(name: str) -> Any:
    # Routers and votes are operators, and need JAX; the rest does not. This import says what to install.
    if name in _HOMES and name != "cascade":
        importlib.import_module("mahsm.operators")
    return attach(__name__, _HOMES, name)
