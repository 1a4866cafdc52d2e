"""`Branch`: one of the targets that `parallel` runs, with what it depends on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from langgraph.types import RetryPolicy

from mahsm._common import check, shown
from mahsm.edges._shared.call_spec import CallSpec
from mahsm.edges._shared.edge import Edge
from mahsm.edges._shared.ends import Ends
from mahsm.edges._shared.tries import Tries
from mahsm.errors import EdgeError, NodeError
from mahsm.limits import RateLimit
from mahsm.nodes._internal import as_target
from mahsm.policies import Retry


@dataclass(frozen=True)
class Branch:
    """A branch of `parallel`, with what it depends on and how it is tried.

    `reads` and `writes` need not be passed for DSPy nodes, edges, and functions whose parameter or result is
    annotated with a TypedDict, a dataclass or a pydantic model.

    Args:
        target: The target to call with the state: anything that `vmap` takes.
        name: Node name; by default the target's, or `branch_` and its place from 0 for a graph without a
            name. Such a graph takes the branch's name.
        reads: State keys that it reads. With `scheduler="wave"`, it runs after the branches that write them.
        writes: State keys that it writes.
        after: Names of branches that it runs after, whatever they write.
        inherit: The part of the state that its target sees in addition to the keys in `reads`: all (True),
            nothing (False), or these keys.
        retry: Retry the branch: a `Retry`, or LangGraph's `RetryPolicy`.
        timeout: Seconds that one attempt may take, > 0.
        rate_limit: The provider's limit: a `RateLimit`, its arguments as a dict, or the name of a provider
            that has one.

    Example:
        >>> from mahsm import Branch, parallel
        >>> draft = Branch(lambda state: {"draft": state["topic"].upper()}, name="draft", writes=["draft"])
        >>> praise = Branch(lambda state: {"final": state["draft"] + "!"}, name="praise", reads=["draft"])
        >>> parallel([praise, draft], scheduler="wave").invoke({"topic": "buckets"})
        {'draft': 'BUCKETS', 'final': 'BUCKETS!'}
    """

    # what is called, and what it depends on
    target: Any
    name: str | None = None
    reads: Sequence[str] | None = None
    writes: Sequence[str] | None = None
    after: str | Sequence[str] = ()
    inherit: bool | Sequence[str] = True
    # how it is tried
    retry: Retry | RetryPolicy | None = None
    timeout: float | None = None
    rate_limit: "RateLimit | Mapping[str, Any] | str | None" = None


Branches: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""Targets and `Branch`es: a list, or a dict by name."""


@dataclass(frozen=True)
class BranchSpec(CallSpec):
    """A checked branch, with its target ready to be called.

    Attributes:
        position: Its place in the list, from 0.
        needs: State keys that it declares to read.
        reads: State keys that it reads, as declared or as known from its target.
        writes: State keys that it writes, as declared or as known from its target.
        promises: State keys that it declares to write.
        after: Names of branches that it runs after.
        seen: State keys that its target sees; None for all.
    """

    position: int
    needs: frozenset[str]
    reads: frozenset[str]
    writes: frozenset[str]
    promises: frozenset[str]
    after: tuple[str, ...]
    seen: frozenset[str] | None


def branch_specs(edge: str, branches: Branches, ends: Ends) -> list[BranchSpec]:
    """Check branches, and prepare their targets.

    Raises:
        EdgeError: if `branches` is not a list or dict of branches, if a name is invalid or taken, or if an
            argument of a branch is invalid.
    """
    if isinstance(branches, Mapping):
        named = list(branches.items())
    elif isinstance(branches, Sequence) and not isinstance(branches, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        named = [(None, branch) for branch in branches]
    else:
        raise EdgeError(
            f"{edge}: branches={shown(branches)}; expected a list of targets, or {{name: target}}."
        )
    if not named:
        raise EdgeError(f"{edge}: there are no branches; expected at least one.")
    specs: list[BranchSpec] = []
    taken: set[str] = set()
    for name, given in named:
        branch = given if isinstance(given, Branch) else Branch(given)
        if name is not None and branch.name not in (None, name):
            raise EdgeError(
                f"{edge}: the branch {name!r} is named {branch.name!r} too; expected one name. "
                "Leave name= out."
            )
        specs.append(_spec(edge, len(specs), name or branch.name, branch, taken, ends))
        taken.add(specs[-1].name)
    return specs


def _spec(
    edge: str, position: int, name: str | None, branch: Branch, taken: set[str], ends: Ends
) -> BranchSpec:
    target = as_target(branch.target, reader=f"{edge}, branch {position}").named(name or f"branch_{position}")
    label = f"{edge}, branch {name or target.name!r}"
    if name is not None:
        check.name(label, name)
        if name in taken:
            raise EdgeError(f"{edge}: two branches are named {name!r}; expected a name for each.")
    needs, promises = _keys(label, "reads", branch.reads), _keys(label, "writes", branch.writes)
    if target.item is not None:
        raise NodeError(
            f"{label}: the target {target.name} takes one {target.item}, and a branch is called with the "
            "state. Let it take the state, such as lambda state: f(state['key'])."
        )
    if isinstance(branch.target, Edge):
        needs, promises = needs or branch.target.reads, promises or branch.target.writes
    after = (branch.after,) if isinstance(branch.after, str) else tuple(branch.after)
    reads = needs if branch.reads is not None else target.reads
    inherited = check.inherit(label, branch.inherit, default=True)
    if inherited is False and not reads:
        raise EdgeError(
            f"{label}: inherit=False without reads=, so the target would see no keys. Pass reads=['key'], or "
            "leave inherit out."
        )
    tries = Tries.of(label, branch.retry, branch.timeout, branch.rate_limit)
    if (once := tries.once(branch.target)) is not branch.target:
        target = as_target(once, reader=label).named(target.name)
    tries.check_target(label, target)
    return BranchSpec(
        name=name or _free(target.name, taken),
        target=target,
        tries=tries,
        ends=ends,
        position=position,
        needs=needs,
        reads=reads,
        writes=promises if branch.writes is not None else target.writes,
        promises=promises,
        after=after,
        seen=None if inherited is True else reads | (inherited or frozenset()),
    )


def _keys(label: str, argument: str, keys: Sequence[str] | None) -> frozenset[str]:
    if isinstance(keys, str):
        raise EdgeError(
            f"{label}: {argument}={keys!r} is a string; expected a list of state keys, such as "
            f"{argument}=[{keys!r}]."
        )
    for key in keys or ():
        check.key(label, argument, key)
    return frozenset(keys or ())


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
