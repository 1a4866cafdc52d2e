"""Makes an edge that chooses its branches."""

from dataclasses import replace
from functools import partial

from mahsm._common import check
from mahsm.edges._parallel import (
    Branch,
    Branches,
    BranchSpec,
    ParallelLowering,
    ParallelSpec,
    branch_specs,
    edge_of_branches,
    plan,
)
from mahsm.edges._routed.chooser import Chooser
from mahsm.edges._routed.lowering import RoutedLowering
from mahsm.edges._routed.run import CHOOSE
from mahsm.edges._shared.edge import Edge
from mahsm.edges._shared.ends import Ends
from mahsm.edges._shared.failures import Failures
from mahsm.errors import EdgeError
from mahsm.nodes._internal import node_name

_NO_BOUND = 1_000_000
"""The edge bounds nothing: one branch at a time runs, with all that edges inside it run."""


def routed(edge: str, branches: Branches, chooser: Chooser, *, name: str | None, write_to: str) -> Edge:
    """Return an edge that runs the branches that a chooser chooses, one after the other.

    Args:
        edge: What errors call it. Its first word is the kind of the edge.
        branches: Targets and `Branch`es.
        chooser: Chooses them.
        name: Node name; by default the kind of the edge and its branches.
        write_to: State key for what was decided.

    Raises:
        EdgeError: for invalid arguments.
    """
    if name is not None:
        check.name(edge, name)
    check.key(edge, "write_to", write_to)
    ends = Ends()
    specs = branch_specs(edge, branches, ends)
    for spec in specs:
        if spec.name == CHOOSE:
            raise EdgeError(f"{edge}: a target is named {CHOOSE!r}, as the node that decides. Rename it.")
        if write_to in spec.promises:
            raise EdgeError(
                f"{edge}: write_to={write_to!r} is a key that the target {spec.name!r} writes; expected a "
                "key of its own."
            )
    joined = "_".join([edge.partition(" ")[0], *(spec.name for spec in specs)])
    made = ParallelSpec(
        name=name or node_name(joined[:60]),
        branches=specs,
        scheduler="parallel",
        plan=plan(edge, specs, "parallel", None, eager=False),
        merge=None,
        max_concurrency=_NO_BOUND,
        ends=ends,
        failures=Failures("raise", None),
        reducers={},
    )
    judge = _judge(edge, chooser, len(specs), ends)
    return edge_of_branches(made, partial(_lowered, chooser, judge, write_to))


def _lowered(
    chooser: Chooser, judge: BranchSpec | None, write_to: str, spec: ParallelSpec
) -> ParallelLowering:
    return RoutedLowering(spec, chooser, judge, write_to)


def _judge(edge: str, chooser: Chooser, position: int, ends: Ends) -> BranchSpec | None:
    if chooser.judge is None:
        return None
    given = chooser.judge if isinstance(chooser.judge, Branch) else Branch(chooser.judge)
    [spec] = branch_specs(f"{edge}, accept", [given], ends)
    return replace(spec, position=position)
