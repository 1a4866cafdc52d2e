"""Edges that run one branch after another, each chosen by what is known so far.

- `function`  makes such an edge, for `mahsm.learn`
- `chooser`   what chooses the next branch
- `lowering`  compiles the edge into a LangGraph subgraph; `run`: one run of it
"""

from mahsm.edges._routed.chooser import Asked as Asked
from mahsm.edges._routed.chooser import Chooser as Chooser
from mahsm.edges._routed.chooser import Situation as Situation
from mahsm.edges._routed.chooser import Step as Step
from mahsm.edges._routed.function import routed as routed

__all__ = ["Asked", "Chooser", "Situation", "Step", "routed"]
