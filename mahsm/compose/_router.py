"""`policy_router`: a policy that chooses the next node of a graph."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, Protocol, TypeAlias, cast, overload, runtime_checkable

import numpy as np
from langgraph.types import Command

from mahsm._common import as_dict, check, read, shown
from mahsm.compose._calls import acall, call, kind_of
from mahsm.errors import EdgeError
from mahsm.operators import ModuleOperator, Operator, op

Strategy: TypeAlias = Literal["greedy", "sample"]

_EXACT = 1e-6
"""By how much the sum of probabilities may differ from 1."""


@runtime_checkable
class Routes(Protocol):
    """A router that learns, such as `mahsm.learn.Router`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the nodes."""
        ...

    def route(self, x: Any = None) -> Any:
        """Return a choice, which has an `arm` and a `row()` for the state."""
        ...


@overload
def policy_router(
    policy: Callable[..., Any],
    /,
    labels: Sequence[str],
    strategy: Strategy = ...,
    *,
    key: str | None = ...,
    rng: np.random.Generator | int | None = ...,
    write_to: None = ...,
) -> Callable[[Any], str]: ...
@overload
def policy_router(
    policy: Callable[..., Any],
    /,
    labels: Sequence[str],
    strategy: Strategy = ...,
    *,
    key: str | None = ...,
    rng: np.random.Generator | int | None = ...,
    write_to: str,
) -> Callable[[Any], Command[str]]: ...
@overload
def policy_router(
    policy: Routes, /, *, key: str | None = ..., write_to: str
) -> Callable[[Any], Command[str]]: ...
@check.arguments()
def policy_router(
    policy: "Callable[..., Any] | Routes",
    /,
    labels: Sequence[str] | None = None,
    strategy: Strategy = "greedy",
    *,
    key: str | None = None,
    rng: np.random.Generator | int | None = None,
    write_to: str | None = None,
) -> Any:
    """Make a function for `add_conditional_edges`, or a node, that chooses the next node by a policy.

    A conditional edge cannot write to the state. With `write_to`, the result is a node instead, for
    `add_node`: it goes to the node that it chooses, and writes `{"choice": label, "probability": number}`
    under that key.

    A `mahsm.learn.Router` is a policy that learns. It needs `write_to`: the choice in the state is then a row
    of `mahsm.learn.logs`, with the id that its reward needs.

    Args:
        policy: A function, sync or async, an operator or an Equinox module. It returns a number for each
            label, shape `(labels,)`, or a dict of them by label. If these are >= 0 and their sum is 1 (to
            1e-6), they are probabilities; otherwise they are scores, of which the softmax is taken. A score
            of -inf is never chosen. Or a `mahsm.learn.Router`.
        labels: The names of the nodes, in the order of the numbers, and perhaps `END`. Those of a router are
            its arms.
        strategy: "greedy" takes the label with the highest probability, of equals the first; "sample" draws
            one.
        key: A state key whose value the policy is called with; by default the whole state.
        rng: A NumPy generator, or a seed, for "sample".
        write_to: A state key for the choice and its probability. The result is then for `add_node` only.

    Returns:
        A function of the state, async if the policy is, whose annotations tell LangGraph the destinations.

    Raises:
        TypeError: immediately, if `policy` cannot be called.
        EdgeError: immediately, for other invalid arguments; when called, if the policy returns anything else
            than a number for each label, or if a conditional edge calls what `write_to` made.
        MissingKeyError: when called, if the state lacks `key`.

    Example:
        >>> from mahsm import policy_router
        >>> route = policy_router(lambda state: [0.2, 0.8], ["search", "answer"])
        >>> route({"question": "Who?"})
        'answer'
        >>> node = policy_router(lambda state: [0.0, 0.0], ["search", "answer"], write_to="route")
        >>> node({"question": "Who?"}).update
        {'route': {'choice': 'search', 'probability': 0.5}}
    """
    if isinstance(policy, Routes):
        return _by_router(policy, labels, strategy, key, rng, write_to)
    names = _checked_labels(labels)
    if strategy not in ("greedy", "sample"):
        raise EdgeError(f"policy_router: strategy={shown(strategy)}; expected 'greedy' or 'sample'.")
    for argument, value in (("key", key), ("write_to", write_to)):
        if value is not None and not _is_name(value):
            raise EdgeError(f"policy_router: {argument}={shown(value)}; expected a state key.")
    chosen = _Chooser(policy, names, _generator(strategy, rng), key, write_to)
    return _as_function(chosen, write_to is not None)


def _by_router(
    router: Routes, labels: Any, strategy: Any, key: str | None, rng: Any, write_to: str | None
) -> Any:
    """Make a node that goes where a router decides."""
    if labels is not None or strategy != "greedy" or rng is not None:
        raise EdgeError(
            "policy_router: a router has its arms, its strategy and its seed; leave labels=, strategy= and "
            "rng= out."
        )
    if not _is_name(write_to):
        raise EdgeError(
            f"policy_router: write_to={shown(write_to)} with a router; expected a state key. The router "
            "learns by the id of its choice, which a conditional edge cannot write to the state. Pass "
            "write_to='choice', and add the result with add_node."
        )

    def whole(state: Any) -> Any:
        # A router without features takes numbers, or None; a state is neither.
        return None if getattr(router, "features", state) is None else state

    def route(state: Any) -> Any:
        x = whole(state) if key is None else read(as_dict(state), key, "policy_router", "key")
        choice = router.route(x)
        return _Choice(goto=choice.arm, update={write_to: choice.row()})

    arms: Any = Literal[router.labels]
    route.__annotations__ = {"state": Any, "return": Command[arms]}
    return route


class _Choice(Command[str]):
    """What a router returns as a node: a command, which a conditional edge refuses.

    A conditional edge only takes names of nodes, and would drop a command without an error. It compares what
    a function returns with the name of the first node, or looks it up in a dict; a node does neither.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            raise EdgeError(self._refusal())
        if not isinstance(other, Command):
            return NotImplemented
        return asdict(self) == asdict(cast("Command[str]", other))

    def __hash__(self) -> int:
        raise EdgeError(self._refusal())

    def _refusal(self) -> str:
        key = next(iter(cast("dict[str, Any]", self.update)))
        return (
            f"policy_router: with write_to={key!r} it is a node, and add_conditional_edges got it; expected "
            "add_node('router', policy_router(...)), and an edge to 'router'. For a conditional edge, leave "
            "out write_to=."
        )


class _Chooser:
    """Chooses a label for a state.

    Args:
        policy: The policy.
        labels: The labels.
        rng: Draws, or None for the highest probability.
        key: The state key of what the policy is called with.
        write_to: The state key of the choice.
    """

    def __init__(
        self,
        policy: Any,
        labels: tuple[str, ...],
        rng: np.random.Generator | None,
        key: str | None,
        write_to: str | None,
    ) -> None:
        kind_of("policy_router", policy)
        # An Equinox module takes arrays, and not lists.
        self._takes_arrays = not isinstance(policy, Operator) and isinstance(op(policy), ModuleOperator)
        self.policy = policy
        self.kind = kind_of("policy_router", policy)
        self.labels = labels
        self._rng = rng
        self._lock = threading.Lock()
        self._key = key
        self._write_to = write_to

    def input(self, state: Any) -> tuple[Any]:
        """Return what the policy is called with."""
        if self._key is None:
            return (state,)
        value = read(as_dict(state), self._key, "policy_router", "key")
        return (np.asarray(value, np.float32) if self._takes_arrays and isinstance(value, list) else value,)

    def choice(self, found: Any) -> Any:
        """Return what the router returns for the numbers of its policy."""
        probabilities = self._probabilities(found)
        if self._rng is None:
            place = int(probabilities.argmax())
        else:
            with self._lock:
                drawn = self._rng.random()
            # The last label that is possible, if rounding leaves the sum below what was drawn.
            possible = int(np.flatnonzero(probabilities)[-1])
            place = min(int(np.searchsorted(probabilities.cumsum(), drawn, side="right")), possible)
        label = self.labels[place]
        if self._write_to is None:
            return label
        written = {"choice": label, "probability": float(probabilities[place])}
        return _Choice(goto=label, update={self._write_to: written})

    def _probabilities(self, found: Any) -> Any:
        numbers = found
        if isinstance(found, Mapping) and set(by_label := cast("Mapping[str, Any]", found)) == set(
            self.labels
        ):
            numbers = [by_label[label] for label in self.labels]
        try:
            values = np.asarray(numbers, np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if (
            values.shape != (len(self.labels),)
            or np.isnan(values).any()
            or not np.isfinite(highest := values.max())
        ):
            raise EdgeError(
                f"policy_router: {self.kind.name} returned {shown(cast('object', found))}; expected "
                f"{len(self.labels)} numbers, one for each of {', '.join(map(repr, self.labels))}."
            )
        if values.min() >= 0 and abs(values.sum() - 1) <= _EXACT:
            return values / values.sum()
        powers = np.exp(values - highest)
        return powers / powers.sum()


def _as_function(chooser: _Chooser, is_node: bool) -> Any:
    policy, kind = chooser.policy, chooser.kind

    def route(state: Any) -> Any:
        return chooser.choice(call(policy, kind, chooser.input(state), {}))

    async def aroute(state: Any) -> Any:
        return chooser.choice(await acall(policy, kind, chooser.input(state), {}))

    made: Any = aroute if kind.awaits else route
    made.__name__ = made.__qualname__ = kind.name if kind.name.isidentifier() else "policy_router"
    choices: Any = Literal[chooser.labels]
    made.__annotations__ = {"state": Any, "return": Command[choices] if is_node else choices}
    return made


def _checked_labels(labels: Any) -> tuple[str, ...]:
    names: tuple[Any, ...] = (
        () if isinstance(labels, str) or not hasattr(labels, "__iter__") else tuple(labels)
    )
    if not names or not all(map(_is_name, names)) or len(set(names)) < len(names):
        raise EdgeError(
            f"policy_router: labels={shown(labels)}; expected a list of the names of different nodes, "
            "such as ['search', 'answer']."
        )
    return names


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _generator(strategy: str, rng: Any) -> np.random.Generator | None:
    if strategy == "greedy":
        if rng is not None:
            raise EdgeError(f"policy_router: rng={shown(rng)} with strategy='greedy', which draws nothing.")
        return None
    if rng is None or isinstance(rng, np.random.Generator):
        return rng or np.random.default_rng()
    if type(rng) is not int or rng < 0:
        raise EdgeError(f"policy_router: rng={shown(rng)}; expected a NumPy generator, or a seed >= 0.")
    return np.random.default_rng(rng)
