"""Reducers: functions from a list to one value, for `reduce_edge` and for plain calls.

Call a reducer on a list, `top_k(values, k=3)`, or with options only, `top_k(k=3)`, which returns a function
for `reduce_edge`. Ties go to the value that comes first in the list. An empty list raises a `ReducerError`,
except with `top_k`, `first` and `concat`, which return an empty list.

- `_votes`   majority_vote, weighted_vote
- `_scores`  score_and_select, top_k, mean, median
- `_lists`   concat, first, rank_fusion
- `_tree`    tree_reduce
- `_judge`   llm_judge_select (imports DSPy when it is used)
- `_values`  the part of a value that a reducer uses
- `_internal` exports for `mahsm.learn`
"""

from typing import TYPE_CHECKING, Any

from mahsm._lazy import attach
from mahsm.edges._internal import Reducer as Reducer
from mahsm.reducers._lists import concat as concat
from mahsm.reducers._lists import first as first
from mahsm.reducers._lists import rank_fusion as rank_fusion
from mahsm.reducers._scores import mean as mean
from mahsm.reducers._scores import median as median
from mahsm.reducers._scores import score_and_select as score_and_select
from mahsm.reducers._scores import top_k as top_k
from mahsm.reducers._tree import tree_reduce as tree_reduce
from mahsm.reducers._values import Key as Key
from mahsm.reducers._votes import majority_vote as majority_vote
from mahsm.reducers._votes import normalized as normalized
from mahsm.reducers._votes import weighted_vote as weighted_vote

if TYPE_CHECKING:
    from mahsm.reducers._judge import llm_judge_select as llm_judge_select

__all__ = [
    "Key",
    "Reducer",
    "concat",
    "first",
    "llm_judge_select",
    "majority_vote",
    "mean",
    "median",
    "normalized",
    "rank_fusion",
    "score_and_select",
    "top_k",
    "tree_reduce",
    "weighted_vote",
]


def __getattr__(name: str) -> Any:
    return attach(__name__, {"llm_judge_select": "mahsm.reducers._judge"}, name)
