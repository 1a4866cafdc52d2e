"""`CallSpec`: the target of an edge and its options, the same for the items of a `vmap` and for a branch."""

from dataclasses import dataclass

from mahsm.edges._shared.ends import Ends
from mahsm.edges._shared.tries import Tries
from mahsm.nodes._internal import Target


@dataclass(frozen=True)
class CallSpec:
    """The target that an edge calls, and the options of its calls.

    Attributes:
        name: The name of the edge or the branch.
        target: The target.
        tries: Options of each attempt.
        ends: When the run of the edge is over.
    """

    name: str
    target: Target
    tries: Tries
    ends: Ends

    @property
    def may_be_left(self) -> bool:
        """True if a call may be abandoned, and go on in its thread."""
        tries = self.tries
        return tries.timeout is not None or tries.hedge is not None or self.ends.deadline is not None
