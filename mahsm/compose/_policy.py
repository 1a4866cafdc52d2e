"""`policy_router`: a policy that decides where a graph goes on."""

import inspect
import math
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from langgraph.types import Command

from mahsm._common import check, shown
from mahsm.errors import EdgeError, StateError

Strategy = Literal["greedy", "sample"]


class Choice(NamedTuple):
    """A choice of a policy.

    Attributes:
        label: The label.
        probability: The probability with which it was chosen: for "greedy" that which the policy gives it.
    """

    label: str
    probability: float


class PolicyRouter:
    """Decides where a graph goes on: the path of `add_conditional_edges`. Made by `policy_router`.

    Args:
        policy: From the state to probabilities or scores.
        labels: The labels.
        strategy: How a label is chosen.
        key: The state key that a node of it writes its choice to.
        seed: Seeds the draws.
    """

    def __init__(
        self,
        policy: Callable[[Any], Any],
        labels: Sequence[str],
        strategy: Strategy,
        key: str | None,
        seed: int | None,
    ) -> None:
        self.policy = policy
        self.labels = tuple(labels)
        self._strategy = strategy
        self._key = key
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.__name__ = getattr(policy, "__name__", type(policy).__name__)

    def __call__(self, state: Any) -> Any:
        return self.choose(state).label

    def __repr__(self) -> str:
        return f"policy_router({shown(self.policy)}, {list(self.labels)!r})"

    def choose(self, state: Any) -> Any:
        """Return the choice for a state; awaited, if the policy is async."""
        return self._choice(self.policy(state))

    def node(self) -> Callable[[Any], Any]:
        """Return a node that goes on at its choice, and writes the choice to the state key, if there is one.

        A conditional edge cannot write to the state; a node can. It needs no edges of its own.

        Example:
            >>> from typing import Any, TypedDict
            >>> from langgraph.graph import START, StateGraph
            >>> from mahsm import policy_router
            >>> class State(TypedDict, total=False):
            ...     x: int
            ...     route: Any
            >>> router = policy_router(lambda state: [0.2, 0.8], ["cheap", "strong"], key="route")
            >>> builder = StateGraph(State).add_node("router", router.node())
            >>> for label in router.labels:
            ...     builder = builder.add_node(label, lambda state: {"x": state["x"] + 1})
            >>> builder.add_edge(START, "router").compile().invoke({"x": 1})
            {'x': 2, 'route': {'label': 'strong', 'probability': 0.8}}
        """

        def route(state: Any) -> Any:
            return self._command(self.choose(state))

        return self._annotated(route)

    def _annotated(self, route: Callable[[Any], Any]) -> Callable[[Any], Any]:
        route.__name__ = route.__qualname__ = self.__name__
        # LangGraph draws the arrows by it.
        route.__annotations__["return"] = cast("Any", Command)[cast("Any", Literal)[self.labels]]
        return route

    def _command(self, choice: Choice) -> Any:
        update = {} if self._key is None else {self._key: choice._asdict()}
        return Command(goto=choice.label, update=update)

    def _choice(self, values: Any) -> Choice:
        chances = self._chances(values)
        if self._strategy == "greedy":
            place = chances.index(max(chances))
        else:
            with self._lock:
                place = self._random.choices(range(len(chances)), chances)[0]
        return Choice(self.labels[place], chances[place])

    def _chances(self, values: Any) -> list[float]:
        """Return probabilities: the values, if they are, or the softmax of scores."""
        given: Any = values
        if isinstance(values, Mapping):
            if set(given) != set(self.labels):
                raise StateError(
                    f"{self.__name__} returned values of {shown(sorted(map(str, given)))}; expected one for "
                    f"each of the labels {list(self.labels)!r}."
                )
            given = [given[label] for label in self.labels]
        found = [float(value) for value in np.asarray(given, dtype=float).ravel()]
        if len(found) != len(self.labels) or not all(map(math.isfinite, found)):
            raise StateError(
                f"{self.__name__} returned {shown(given)}; expected {len(self.labels)} finite probabilities "
                f"or scores, one for each of the labels {list(self.labels)!r}."
            )
        if min(found) >= 0 and abs(sum(found) - 1) < 1e-6:
            return found
        most = max(found)
        weights = [math.exp(value - most) for value in found]
        total = sum(weights)
        return [weight / total for weight in weights]


class AsyncPolicyRouter(PolicyRouter):
    """A router with an async policy."""

    async def __call__(self, state: Any) -> Any:
        return (await self.choose(state)).label

    async def choose(self, state: Any) -> Any:
        return self._choice(await self.policy(state))

    def node(self) -> Callable[[Any], Any]:
        async def route(state: Any) -> Any:
            return self._command(await self.choose(state))

        return self._annotated(route)


def policy_router(
    policy: Callable[[Any], Any],
    labels: Sequence[str],
    strategy: Strategy = "greedy",
    key: str | None = None,
    seed: int | None = None,
) -> PolicyRouter:
    """Let a policy decide where a graph goes on.

    Args:
        policy: From the state to a probability or a score for each label: a list or an array in the order of
            the labels, or a dict by label. Values that are >= 0 and add up to 1 are probabilities; of others
            the softmax is taken. A function, sync or async, or an Equinox module.
        labels: The labels: node names, or the keys of `path_map`. At least one, each once.
        strategy: `"greedy"` takes the label with the highest probability, the first of several; `"sample"`
            draws one.
        key: The state key that `router.node()` writes the choice and its probability to.
        seed: Seeds the draws.

    Returns:
        A router: pass it to `add_conditional_edges(node, router, labels)`, or add `router.node()` as a node.

    Raises:
        EdgeError: immediately, for invalid arguments.
        StateError: when called, for values that do not fit the labels.

    Example:
        >>> from mahsm import policy_router
        >>> scores = lambda state: {"short": 1.0, "long": len(state["q"]) / 10}
        >>> router = policy_router(scores, ["short", "long"])
        >>> router({"q": "why"}), router({"q": "why is the sky blue"})
        ('short', 'long')
    """
    if not callable(policy) or isinstance(policy, type):
        raise EdgeError(f"policy_router: policy={shown(policy)}; expected a function of the state.")
    if isinstance(labels, str) or not labels or len(set(labels)) < len(labels):
        raise EdgeError(f"policy_router: labels={shown(labels)}; expected a list of labels, each once.")
    check.choice("policy_router", "strategy", strategy, ["greedy", "sample"])
    if key is not None:
        check.key("policy_router", "key", key)
    call = getattr(type(policy), "__call__", None)  # noqa: B004  of an object
    is_async = inspect.iscoroutinefunction(policy) or inspect.iscoroutinefunction(call)
    return (AsyncPolicyRouter if is_async else PolicyRouter)(policy, labels, strategy, key, seed)
