"""`Router`: an operator that learns which arm is best for which input."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args

import equinox as eqx
import numpy as np

from mahsm._common import shown
from mahsm.errors import LearnError
from mahsm.learn._arguments import Cost, check_arms, check_whole, number, prices_of
from mahsm.learn._choice import Choice, Waiting
from mahsm.learn._features import Features
from mahsm.learn._head import LinearHead
from mahsm.learn._learner import Learner
from mahsm.learn._policy import EXPLORE, Head, Policy
from mahsm.learn.logs import Logged
from mahsm.operators import Operator

if TYPE_CHECKING:
    from langgraph.store.base import BaseStore

MethodT = TypeVar("MethodT", bound=Callable[..., Any])


class _Method:
    """A method that Equinox does not wrap in a module at each access, which takes as long as a decision."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self.__wrapped__ if instance is None else partial(self.__wrapped__, instance)


def _method(function: MethodT) -> MethodT:
    return cast("MethodT", _Method(function))


class Router(Operator):
    """Choose an arm for each input, such as one of several models, and learn from the rewards.

    For each arm, a ridge regression predicts the reward from the features of an input. The router prefers
    arms that it expects to be good, and those about which it is uncertain.

    `route(x)` returns a `Choice`, and `reward(choice.id, value)` tells how good it was: later, from any
    thread, in any order, once for each choice. Calling the router is the same as `route`.

    Args:
        arms: The names of what can be chosen, such as models or nodes.
        features: How an input becomes numbers. None for inputs that are a list or 1-d array of numbers, or
            None for no features; a function of the input; or an embedder of texts: a `dspy.Embedder`, or
            LangChain's `Embeddings`. Embeddings of more than 64 dimensions are projected to 64, by a fixed
            random matrix. Numbers should be of the order of 1. Time and memory grow with the square of their
            number.
        head: "linucb" takes the arm with the highest upper confidence bound; "thompson" draws an arm by the
            probability that it is the best one. Take "thompson" if many choices are made before their
            rewards arrive, as in a fan-out; "linucb" would make all of them alike.
        cost: The price of each arm: a dict, or a function of its name. A choice maximises the expected reward
            minus `cost_weight * price`. Rewards are given without it, so prices can change.
        cost_weight: What a unit of `cost` is worth in units of reward.
        forget: By what earlier rewards count less with each new one, in (0, 1]; 1.0 forgets nothing, and
            0.998 fits arms that change within a thousand rewards.
        min_explore: The probability, in [0, 1], of a choice among all arms alike. If it is above 0, the logs
            allow an estimate of any other policy.
        explore: How much uncertainty attracts, for rewards in [0, 1]; scale it with your rewards. By default
            0.5 for "linucb", and 0.3 for "thompson".
        dims: The number of features; by default that of the first input. A router that `load` fills needs it.
        seed: For all draws.
        store: Where to keep what was learned, and the choices that wait for a reward: path of a file, or a
            `BaseStore` of LangGraph, whose sync methods are called. An event is written before it takes
            effect. One router at a time uses a store. The arms are those that you pass: new ones begin
            without rewards, missing ones are forgotten.
        name: The name of the router in a `BaseStore`.
        max_waiting: At most so many choices wait for a reward; then the oldest one makes room.

    Attributes:
        labels: The arms.
        inverse: The inverse covariances, shape `(arms, dims + 1, dims + 1)`.
        weights: The weights, with the intercept behind them, shape `(arms, dims + 1)`.

    Raises:
        LearnError: immediately, if an argument is invalid, or the store has something else; when called, if
            the features are not numbers or not as many as before.

    Example:
        >>> from mahsm.learn import Router
        >>> router = Router(["cheap", "strong"], cost={"cheap": 0.0, "strong": 0.3}, seed=0)
        >>> for difficulty in [0.1, 0.9] * 50:
        ...     choice = router.route([difficulty])
        ...     router.reward(choice.id, choice.arm == "strong" or difficulty < 0.5)
        >>> router.best([0.1]), router.best([0.9])
        ('cheap', 'strong')
    """

    inverse: np.ndarray
    weights: np.ndarray
    labels: tuple[str, ...] = eqx.field(static=True)
    features: Any = eqx.field(static=True)
    head: Head = eqx.field(static=True)
    cost: Any = eqx.field(static=True)
    cost_weight: float = eqx.field(static=True)
    forget: float = eqx.field(static=True)
    min_explore: float = eqx.field(static=True)
    explore: float = eqx.field(static=True)
    dims: int | None = eqx.field(static=True)
    seed: int | None = eqx.field(static=True)
    max_waiting: int = eqx.field(static=True)

    def __init__(
        self,
        arms: Sequence[str],
        features: Any = None,
        *,
        head: Head = "linucb",
        cost: Cost | None = None,
        cost_weight: float = 1.0,
        forget: float = 1.0,
        min_explore: float = 0.0,
        explore: float | None = None,
        dims: int | None = None,
        seed: int | None = None,
        store: "str | os.PathLike[str] | BaseStore | None" = None,
        name: str = "router",
        max_waiting: int = 100_000,
    ) -> None:
        check_arms(arms)
        if head not in get_args(Head):
            raise LearnError(f"Router: head={shown(head)}; expected 'linucb' or 'thompson'.")
        self.labels = tuple(arms)
        self.features, self.head = features, head
        self.cost, self.cost_weight = cost, number("cost_weight", cost_weight, 0.0)
        self.forget = number("forget", forget, 1e-6, 1.0)
        self.min_explore = number("min_explore", min_explore, 0.0, 1.0)
        self.explore = EXPLORE[head] if explore is None else number("explore", explore, 0.0)
        self.dims, self.seed = dims, seed
        self.max_waiting = max_waiting
        check_whole("max_waiting", max_waiting, 1)
        for argument, value in (("dims", dims), ("seed", seed)):
            if value is not None:
                check_whole(argument, value, 0)
        sized = LinearHead.unlearned(len(arms), 0 if dims is None else dims + 1, forget)
        self.inverse, self.weights = sized.inverse, sized.weights
        learner = _begun(self)
        if store is not None:
            learner.remember(_memory(store, name))
            _show(self, learner)

    def forward(self, input: Any = None, /) -> Choice:
        return _learner(self).route(input)

    @_method
    def route(self, x: Any = None) -> Choice:
        """Choose an arm for an input.

        Raises:
            LearnError: if the input does not give as many numbers as earlier ones.
        """
        learner = _learner(self)
        choice = learner.route(x)
        if not vars(self)["weights"].size:
            _show(self, learner)
        return choice

    @_method
    def route_all(self, xs: Sequence[Any]) -> list[Choice]:
        """Choose an arm for each of several inputs, before any of their rewards is known.

        An embedder is called once. With "thompson", each input has draws of its own.
        """
        learner = _learner(self)
        choices = learner.route_all(xs)
        _show(self, learner)
        return choices

    @_method
    def reward(self, id: str, value: float) -> None:
        """Learn how good a choice was. It may be called from any thread, and in any order.

        Args:
            id: The id of a choice.
            value: Its reward, a number, without the price of the arm; True is 1 and False 0.

        Raises:
            LearnError: if the id is unknown, the choice has its reward already, or the value is not a number.
        """
        _learner(self).reward(id, value)

    @_method
    def fit(self, logs: "str | os.PathLike[str] | Iterable[Mapping[str, Any] | Logged]") -> int:
        """Learn from a log, as from the rewards of own choices; return the number of rows with a reward.

        Features that are as many numbers as the router has are taken as they are; others go through
        `features`. The rewards of choices of this router, too, would be learned a second time.

        Raises:
            LearnError: if a row is invalid, or has an arm that the router does not have.
        """
        learner = _learner(self)
        count = learner.fit(logs)
        _show(self, learner)
        return count

    @_method
    def best(self, x: Any = None) -> str:
        """Return the arm with the highest expected reward minus its price, without exploration.

        Nothing waits for a reward. `evaluate(logs, router.best)` estimates how good these choices would be.
        """
        return _learner(self).best(x)

    @_method
    def probabilities(self, x: Any = None) -> dict[str, float]:
        """Return the probability with which `route` would choose each arm; with "thompson" an estimate of
        1,000 draws.
        """
        return _learner(self).probabilities(x)

    @_method
    def add_arm(self, arm: str, *, price: float | None = None) -> None:
        """Add an arm, which has no rewards yet.

        Args:
            arm: Its name.
            price: Its price; by default that of `cost`, and 0 without `cost`.

        Raises:
            LearnError: if the router has the arm already, or its price is missing or invalid.
        """
        check_arms([arm])
        learner = _learner(self)
        [found] = prices_of(self.cost if price is None else {arm: price}, [arm])
        learner.add_arm(arm, self.cost_weight * found)
        _show(self, learner)

    @_method
    def remove_arm(self, arm: str) -> None:
        """Remove an arm. Its choices may still get their rewards, of which nothing is learned.

        Raises:
            LearnError: if the router does not have the arm, or no other.
        """
        learner = _learner(self)
        learner.remove_arm(arm)
        _show(self, learner)

    @_method
    def update_params(self, **fields: Any) -> "Router":
        """Return a copy with new values in some fields, such as `cost`. It has learned what this router has;
        choices that wait stay with this one.
        """
        made = cast("Router", Operator.update_params(self, **fields))
        vars(made).pop("_learner", None)
        return made

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_learner"}


def numbers_of(router: Router, x: Any) -> tuple[float, ...]:
    """Return the features of an input, which `route`, `best` and `fit` also take in its place."""
    return _learner(router).numbers(x)


def _learner(router: Router) -> Learner:
    """Return the working parts of a router. A copy that JAX, `load` or pickle has made gets its own."""
    found: Learner | None = vars(router).get("_learner")
    return _begun(router) if found is None else found


def _begun(router: Router) -> Learner:
    weights = np.array(router.weights, np.float64)
    head = LinearHead(np.array(router.inverse, np.float64), weights, router.forget) if weights.size else None
    learner = Learner(
        router.labels,
        head,
        Features(router.features),
        Policy(router.head, router.explore, router.min_explore),
        [router.cost_weight * price for price in prices_of(router.cost, router.labels)],
        router.forget,
        np.random.default_rng(router.seed),
        Waiting(router.max_waiting),
    )
    # Of two threads that begin a copy, one wins.
    learner = vars(router).setdefault("_learner", learner)
    _show(router, learner)
    return learner


def _show(router: Router, learner: Learner) -> None:
    """Let the fields of a router be the arrays of its learner, which `save` and JAX read."""
    object.__setattr__(router, "labels", tuple(learner.arms))
    if learner.head is not None:
        object.__setattr__(router, "inverse", learner.head.inverse)
        object.__setattr__(router, "weights", learner.head.weights)


def _memory(store: Any, name: str) -> Any:
    if isinstance(store, str | os.PathLike):
        from mahsm.learn._journal import Journal

        return Journal(cast("str | os.PathLike[str]", store))
    from langgraph.store.base import BaseStore

    from mahsm.learn._in_store import InStore

    if not isinstance(store, BaseStore):
        raise LearnError(f"Router: store={shown(store)}; expected the path of a file, or a BaseStore.")
    if not isinstance(name, str) or not name or "." in name:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LearnError(f"Router: name={shown(name)}; expected a string without dots.")
    return InStore(store, name)
