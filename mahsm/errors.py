"""Every error that mahsm raises of its own; what a target raises comes out as it is.

MahsmError
├── EdgeError (ValueError)          an edge was built or wired wrongly
├── SpecError (ValueError)          what an operator takes or gives back does not fit its spec
├── StateError (ValueError)         the state does not hold what an edge or node reads
│   └── MissingKeyError (KeyError)  a key is not in the state
├── GraphError (ValueError)         a graph cannot be a DSPy program, or not with these arguments
├── NodeError (ValueError)          a node cannot be made from this, or gave back nothing usable
├── ReducerError (ValueError)       a reducer cannot decide on these values
├── JitError (TypeError)            a function cannot be compiled as it is
├── LimitError (ValueError)         a rate limit that cannot be kept, or two that contradict each other
├── BranchSkipped                   a branch depends on one that failed
├── BudgetExceeded                  a budget is spent, and nothing new begins
├── TooFewSucceeded                 `min_success` can no longer be reached
└── TooManyHanging (RuntimeError)   blocking calls hang, and no more of them may be left behind
"""

__all__ = [
    "BranchSkipped",
    "BudgetExceeded",
    "EdgeError",
    "GraphError",
    "JitError",
    "LimitError",
    "MahsmError",
    "MissingKeyError",
    "NodeError",
    "ReducerError",
    "SpecError",
    "StateError",
    "TooFewSucceeded",
    "TooManyHanging",
]


class MahsmError(Exception):
    """The root of mahsm's own errors."""


class EdgeError(MahsmError, ValueError):
    """An edge was built or wired wrongly."""


class GraphError(MahsmError, ValueError):
    """A graph cannot be a DSPy program, or not with these arguments."""


class StateError(MahsmError, ValueError):
    """The state does not hold what an edge or node reads."""


class MissingKeyError(StateError, KeyError):
    """A key that an edge or node reads is not in the state."""

    def __str__(self) -> str:  # KeyError would show the message's repr
        return ValueError.__str__(self)


class NodeError(MahsmError, ValueError):
    """A node cannot be made from this object, or the object gave back nothing usable."""


class ReducerError(MahsmError, ValueError):
    """A reducer cannot decide on these values."""


class JitError(MahsmError, TypeError):
    """A function cannot be compiled as it is, or its results depend on what they must not."""


class SpecError(MahsmError, ValueError):
    """What an operator takes or gives back does not fit its spec."""


class LimitError(MahsmError, ValueError):
    """A rate limit that cannot be kept, or two that contradict each other."""


class BranchSkipped(MahsmError):
    """A branch of a `parallel` was not called, since one that it depends on failed."""


class BudgetExceeded(MahsmError):
    """A budget is spent: what had begun may finish, and nothing new begins."""


class TooFewSucceeded(MahsmError):
    """`min_success` of a `vmap` can no longer be reached; the failure that decided is its `__cause__`."""


class TooManyHanging(MahsmError, RuntimeError):
    """Blocking calls hang after their `timeout`, and no more of them may be left behind: the edge run
    ends.
    """
