"""All errors that mahsm itself raises; errors of targets are raised unchanged.

MahsmError
├── EdgeError (ValueError)          an edge was built or wired wrongly
├── SpecError (ValueError)          an operator's input or output does not match its spec
├── StateError (ValueError)         the state lacks a value that an edge or node reads
│   └── MissingKeyError (KeyError)  a key is not in the state
├── GraphError (ValueError)         a graph cannot be a DSPy program, or not with these arguments
├── NodeError (ValueError)          a node cannot be made of this object, or its result is invalid
├── ReducerError (ValueError)       a reducer cannot decide on these values
├── JitError (TypeError)            a function cannot be compiled
├── LearnError (ValueError)         a router, its rewards or its logs are invalid
├── ModelError (ValueError)         an unknown model or provider, or an invalid prompt
├── LimitError (ValueError)         an invalid rate limit, or two that contradict each other
├── ContextError (ValueError)       an invalid setting, or a file of settings that is broken or unsafe
├── CredentialError                 a credential is missing
├── DataError (ValueError)          a source cannot be read, or a sink not be written
│   └── RowError                    a row of a source cannot be read
├── RegistryError (LookupError)     nothing usable is registered under a name
├── BranchSkipped                   a branch depends on one that failed
├── BudgetExceeded                  a budget is spent, and no new work begins
├── TooFewSucceeded                 `min_success` can no longer be reached
└── TooManyHanging (RuntimeError)   blocking calls hang, and no more of them may be left behind
"""

__all__ = [
    "BranchSkipped",
    "BudgetExceeded",
    "ContextError",
    "CredentialError",
    "DataError",
    "EdgeError",
    "GraphError",
    "JitError",
    "LearnError",
    "LimitError",
    "MahsmError",
    "MissingKeyError",
    "ModelError",
    "NodeError",
    "ReducerError",
    "RegistryError",
    "RowError",
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
    """The state lacks a value that an edge or node reads, or the value is invalid."""


class MissingKeyError(StateError, KeyError):
    """A key that an edge or node reads is not in the state."""

    # `KeyError` would show the repr of the message.
    def __str__(self) -> str:
        return ValueError.__str__(self)


class NodeError(MahsmError, ValueError):
    """A node cannot be made of this object, or the object returned an invalid result."""


class ReducerError(MahsmError, ValueError):
    """A reducer cannot decide on these values."""


class JitError(MahsmError, TypeError):
    """A function cannot be compiled, or its results would be wrong once compiled."""


class SpecError(MahsmError, ValueError):
    """An operator's input or output does not match its spec."""


class LearnError(MahsmError, ValueError):
    """A router, a reward or a log of choices is invalid, or an estimate cannot be made of it."""


class ModelError(MahsmError, ValueError):
    """A model or a provider is unknown, or a prompt is invalid."""


class RegistryError(MahsmError, LookupError):
    """Nothing is registered under a name, or it cannot be loaded or used."""


class LimitError(MahsmError, ValueError):
    """A rate limit is invalid, or two of them contradict each other."""


class ContextError(MahsmError, ValueError):
    """A setting is invalid, or a file of settings is broken or unsafe. The message has no credential."""


class CredentialError(MahsmError):
    """A credential is missing; the message says where to set it."""


class DataError(MahsmError, ValueError):
    """A source cannot be read, has changed, or is not the one that a sink was begun with; or a sink fails."""


class RowError(DataError):
    """A row of a source cannot be read; the message says in which file and line."""


class BranchSkipped(MahsmError):
    """A branch of a `parallel` was not called, since a branch that it depends on failed."""


class BudgetExceeded(MahsmError):
    """A budget is spent: calls in progress may finish, and no new work begins."""


class TooFewSucceeded(MahsmError):
    """`min_success` of a `vmap` can no longer be reached; `__cause__` is the failure that decided it."""


class TooManyHanging(MahsmError, RuntimeError):
    """Too many blocking calls hang after their `timeout`, so the edge run ends."""
