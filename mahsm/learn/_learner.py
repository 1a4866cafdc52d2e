"""What a router does: it chooses, learns from rewards, and keeps both in its memory."""

import threading
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from mahsm._common import shown
from mahsm.errors import LearnError
from mahsm.learn._choice import Choice, Waiting, Waits
from mahsm.learn._features import Features, with_intercept
from mahsm.learn._head import Array, LinearHead
from mahsm.learn._memory import Chose, Memory, Rewarded, Saved
from mahsm.learn._policy import Policy
from mahsm.learn.logs import as_reward, rewarded


class Learner:
    """The working parts of a router, which many threads share.

    One lock guards the head, the waiting choices, the random generator and the memory, so an event is written
    and takes effect before the next one begins. Features are made without it: an embedder may take long.
    Arrays are changed in place, except when arms come and go.

    Args:
        arms: The arms.
        head: The head; None until the number of features is known.
        features: Makes vectors.
        policy: How arms are chosen.
        prices: The price of each arm, times its weight.
        forget: See `LinearHead`.
        rng: For choices.
        waiting: Choices without a reward.
    """

    def __init__(
        self,
        arms: Sequence[str],
        head: LinearHead | None,
        features: Features,
        policy: Policy,
        prices: Sequence[float],
        forget: float,
        rng: np.random.Generator,
        waiting: Waiting,
    ) -> None:
        self.arms = list(arms)
        self.head = head
        self.waiting = waiting
        self._features = features
        self._policy = policy
        self._prices = np.array(prices, np.float64)
        self._forget = forget
        self._rng = rng
        self._memory: Memory | None = None
        self._rewards = 0
        self._lock = threading.Lock()

    # Choices.

    def route(self, x: Any) -> Choice:
        z = self._features.vector(x)
        with self._lock:
            mean, deviation = self._for(z).expected(z)
            arm, propensity = self._policy.choose(mean - self._prices, deviation, self._rng)
            return self._chosen(arm, propensity, z)

    def route_all(self, xs: Sequence[Any]) -> list[Choice]:
        if not len(xs):
            return []
        zs = self._features.vectors(xs)
        with self._lock:
            means, deviations = self._for(zs[0]).expected_of_many(zs)
            arms, propensities = self._policy.choose_many(means - self._prices, deviations, self._rng)
            return [self._chosen(*each) for each in zip(arms, propensities, zs, strict=True)]

    def probabilities(self, x: Any) -> dict[str, float]:
        z = self._features.of_log(x, self._dims)
        with self._lock:
            mean, deviation = self._for(z).expected(z)
            shares = self._policy.probabilities(mean - self._prices, deviation, self._rng)
            return dict(zip(self.arms, shares.tolist(), strict=True))

    def numbers(self, x: Any) -> tuple[float, ...]:
        """Return the features of an input, without the intercept."""
        return tuple(self._features.vector(x)[:-1].tolist())

    def best(self, x: Any) -> str:
        z = self._features.of_log(x, self._dims)
        with self._lock:
            return self.arms[int((self._for(z).expected(z)[0] - self._prices).argmax())]

    def _chosen(self, arm: int, propensity: float, z: Array) -> Choice:
        waiting, name = self.waiting, self.arms[arm]
        features = tuple(z[:-1].tolist())
        number = waiting.number()
        if self._memory is not None:
            self._note(self._memory, Chose(number, name, features))
        waiting.add(number, Waits(name, z))
        return Choice(name, float(propensity), waiting.id(number), features)

    @property
    def _dims(self) -> int | None:
        return None if self.head is None else self.head.weights.shape[1] - 1

    def _for(self, z: Array) -> LinearHead:
        """Return the head, whose size the first features decide."""
        head = self.head
        if head is None:
            head = self.head = LinearHead.unlearned(len(self.arms), z.size, self._forget)
        if head.weights.shape[1] != z.size:
            raise LearnError(
                f"Router: the input has {z.size - 1} features; expected {head.weights.shape[1] - 1}, as "
                "many as the first one had, or dims= says."
            )
        return head

    # Rewards.

    def reward(self, id: Any, value: Any) -> None:
        number_value = as_reward("reward", value)
        with self._lock:
            number = self.waiting.find(id)
            if self._memory is not None:
                self._note(self._memory, Rewarded(number, number_value, self._rewards + 1))
            self._learn(number, number_value)

    def _learn(self, number: int, value: float) -> None:
        self._rewards += 1
        arm, z = self.waiting.choices.pop(number)
        # A reward of an arm that was removed teaches nothing.
        if arm in self.arms:
            self._for(z).update(self.arms.index(arm), z, value)

    def fit(self, source: Any) -> int:
        rows = rewarded(source)
        if unknown := {row.arm for row in rows} - {*self.arms}:
            raise LearnError(
                f"fit: the log has the arm {min(unknown)!r}; expected {', '.join(map(repr, self.arms))}. "
                "Call add_arm first, or leave out its rows."
            )
        zs = [self._features.of_log(row.features, self._dims) for row in rows]
        with self._lock:
            for z in zs:
                self._for(z)
            for row, z in zip(rows, zs, strict=True):
                self._for(z).update(self.arms.index(row.arm), z, cast("float", row.reward))
            self._save()
        return len(rows)

    # Arms.

    def add_arm(self, arm: str, price: float) -> None:
        with self._lock:
            if arm in self.arms:
                raise LearnError(f"add_arm: the router has the arm {arm!r} already; expected another name.")
            self._add(arm, price)
            self._save()

    def _add(self, arm: str, price: float) -> None:
        self.arms.append(arm)
        self._prices = np.append(self._prices, price)
        if self.head is not None:
            self.head.add()

    def remove_arm(self, arm: str) -> None:
        with self._lock:
            if arm not in self.arms or len(self.arms) == 1:
                known = ", ".join(map(repr, self.arms))
                raise LearnError(f"remove_arm: arm={shown(arm)}; expected one of several arms, of {known}.")
            self._remove(arm)
            self._save()

    def _remove(self, arm: str) -> None:
        place = self.arms.index(arm)
        del self.arms[place]
        self._prices = np.delete(self._prices, place)
        if self.head is not None:
            self.head.remove(place)

    # Memory.

    def remember(self, memory: Memory) -> None:
        """Go on from what a memory has, and keep everything in it from now on."""
        saved, events = memory.recall()
        wanted = dict(zip(self.arms, self._prices.tolist(), strict=True))
        if saved is not None:
            self._restore(saved)
        for event in events:
            if isinstance(event, Chose):
                self._wait(event)
            elif event.number in self.waiting.choices:
                self._learn(event.number, event.value)
        for arm in [arm for arm in self.arms if arm not in wanted]:
            self._remove(arm)
        for arm in [arm for arm in wanted if arm not in self.arms]:
            self._add(arm, wanted[arm])
        self._memory = memory
        self._save()

    def _restore(self, saved: Saved) -> None:
        self.waiting = self.waiting.with_key(saved.key, saved.next)
        self._rewards = saved.rewards
        prices = dict(zip(self.arms, self._prices.tolist(), strict=True))
        self.arms = list(saved.arms)
        self._prices = np.array([prices.get(arm, 0.0) for arm in self.arms])
        if saved.inverse is not None and saved.weights is not None:
            dims = saved.weights.shape[1]
            if self.head is not None and self._dims != dims - 1:
                raise LearnError(
                    f"Router: dims={self._dims}, and the store has {dims - 1}; expected the same number of "
                    "features. Pass another store for other features."
                )
            self.head = LinearHead(saved.inverse, saved.weights, self._forget)
        elif self.head is not None:
            self.head = LinearHead.unlearned(len(self.arms), cast("int", self._dims) + 1, self._forget)
        for each in saved.waiting:
            self._wait(each)

    def _wait(self, event: Chose) -> None:
        z = with_intercept(event.features)
        self._for(z)
        self.waiting.next = max(self.waiting.next, event.number + 1)
        self.waiting.add(event.number, Waits(event.arm, z))

    def _note(self, memory: Memory, event: Chose | Rewarded) -> None:
        if memory.is_long():
            self._save()
        memory.append(event)

    def _save(self) -> None:
        if self._memory is None:
            return
        head = self.head
        waiting = [
            Chose(number, each.arm, each.z[:-1].tolist()) for number, each in self.waiting.choices.items()
        ]
        self._memory.save(
            Saved(
                self.waiting.key,
                self.waiting.next,
                self._rewards,
                tuple(self.arms),
                None if head is None else head.inverse,
                None if head is None else head.weights,
                waiting,
            )
        )
