"""`attend`: a vote whose weights are learned from held scores."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mahsm._common import State, is_figure, shown
from mahsm.errors import LearnError, ReducerError
from mahsm.learn._trial import trial_here
from mahsm.learn._weights import Ballot, fitted, weights_of
from mahsm.operators import LearnableOperator
from mahsm.policies import is_item_error
from mahsm.reducers import Key, normalized
from mahsm.reducers._internal import Give, check_give, check_some, parts

Voter: TypeAlias = str | int
"""The name of a branch, or the place of an entry."""


class Attend(LearnableOperator):
    """A vote of several voters, whose weights are learned. `attend` makes it, and describes it.

    Attributes:
        labels: The voters.
        offsets: What is learned, shape `(voters,)`; 0 is a weight of 1.
        key: The part of a value that is voted on.
        normalize: Whether strings are compared without case, whitespace and punctuation.
        give: What the result is.

    Example:
        >>> from mahsm.learn import Attend
        >>> Attend(["a", "b"]).weights
        {'a': 1.0, 'b': 1.0}
    """

    by_place: ClassVar[bool] = True
    """`reduce_edge` gives None in the place of a failed item: without it, all behind it would move up."""

    offsets: jax.Array
    labels: tuple[Voter, ...] = eqx.field(static=True)
    key: Any = eqx.field(static=True)
    normalize: bool = eqx.field(static=True)
    give: Give = eqx.field(static=True)

    def __init__(
        self,
        voters: Sequence[str] | int,
        *,
        key: Key | None = None,
        normalize: bool = False,
        give: Give = "key",
    ) -> None:
        self.labels = _voters(voters)
        check_give("attend", give)
        if key is not None and not isinstance(key, str) and not callable(key):
            raise LearnError(f"attend: key={shown(key)}; expected a key of a value, or a function of it.")
        self.offsets = jnp.zeros(len(self.labels))
        self.key, self.normalize, self.give = key, normalize, give

    @property
    def weights(self) -> dict[Voter, float]:
        """The weight of each voter, >= 0."""
        return dict(zip(self.labels, weights_of(self.offsets).tolist(), strict=True))

    def forward(self, answers: Any, updates: Mapping[str, State] | None = None, /) -> Any:
        """Return the answer with the highest weight; as `merge=` of a `parallel`, the update that has it."""
        values = self._values(answers if updates is None else updates)
        votes, trial = Votes(self, values), trial_here()
        check_some("attend", votes.firsts)
        winner = votes.firsts[int(np.argmax(votes.scores(weights_of(self.offsets))))]
        value = values[winner] if trial is None else trial.voted(self, values, winner)
        return value if updates is not None or self.give == "item" else self._part(value)

    def fit(self, rows: "Iterable[Mapping[str, Any]]", *, l2: float = 1.0) -> int:
        """Learn the weights from answers of which it is known how good they are, in place.

        A graph with this vote uses the new weights from its next run on. The fit begins where the weights
        are; it is the same for another order of the rows.

        Args:
            rows: Each has `answers`, as the vote gets them: a list with a value for each voter, or a dict by
                voter. And either `right`, the right answer; or `scores`, how good the answer of each voter
                is, numbers >= 0, in the same form. Rows of which nothing can be learned are left out: with
                one answer only, or without a good one.
            l2: How strongly the weights are held at 1, >= 0. By default, a row counts about as much as this
                does, so that few rows change little.

        Returns:
            The number of rows that were learned from.

        Raises:
            LearnError: if a row is invalid.
        """
        if not is_figure(l2):
            raise LearnError(f"fit: l2={shown(l2)}; expected a number >= 0.")
        found = [self._ballot(f"row {place}", row) for place, row in enumerate(rows)]
        ballots = [ballot for ballot in found if ballot is not None]
        if ballots:
            object.__setattr__(self, "offsets", fitted(self.offsets, ballots, l2))
        return len(ballots)

    def _ballot(self, where: str, row: Any) -> Ballot | None:
        if not isinstance(row, Mapping) or "answers" not in row or ("right" in row) == ("scores" in row):
            raise LearnError(
                f"fit: {where} is {shown(cast('Any', row))}; expected a dict with 'answers', and with either "
                "'right' or 'scores'."
            )
        values = cast("Mapping[str, Any]", row)
        try:
            votes = Votes(self, self._values(values["answers"]))
            if "right" in values:
                right = normalized(values["right"]) if self.normalize else values["right"]
                good = [float(bool(answer == right)) for answer in votes.answers]
            else:
                good = votes.means(self._by_voter(values["scores"]))
        except ReducerError as error:
            raise LearnError(f"fit: {where}: {error}") from None
        if len(good) < 2 or not sum(good):
            return None
        return Ballot(votes.of_voter, [score / sum(good) for score in good])

    def _values(self, answers: Any) -> list[Any]:
        """Return the value of each voter; None if it abstains."""
        found = self._by_voter(answers)
        return [None if is_item_error(value) else value for value in found]

    def _by_voter(self, given: Any) -> list[Any]:
        if isinstance(given, Mapping):
            named = cast("Mapping[Any, Any]", given)
            if unknown := [name for name in named if name not in self.labels]:
                raise ReducerError(
                    f"attend: there is an answer of {unknown[0]!r}; expected answers of "
                    f"{', '.join(map(repr, self.labels))}."
                )
            return [named.get(voter) for voter in self.labels]
        is_list = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str)
        found: list[Any] = list(cast("Any", given)) if is_list else []
        if len(found) != len(self.labels):
            raise ReducerError(
                f"attend: got {shown(cast('Any', given))}; expected a value for each of {len(self.labels)} "
                "voters, None if it abstains. Let a vmap before it keep the places: on_error='collect', and "
                "no stop_when."
            )
        return found

    def _part(self, value: Any) -> Any:
        return parts("attend", [value], self.key)[0]


class Votes:
    """The answers to one question, grouped.

    Args:
        attend: Whose voters they are.
        values: The value of each voter; None if it abstains.

    Attributes:
        values: The same.
        answers: The different answers, in the order in which they first come.
        firsts: For each, the place of the first voter who gave it.
        of_voter: For each voter the number of its answer; -1 if it abstains.
    """

    def __init__(self, attend: Attend, values: Sequence[Any]) -> None:
        self.values = values
        self.answers: list[Any] = []
        self.firsts: list[int] = []
        self.of_voter: list[int] = []
        for place, value in enumerate(values):
            part = None if value is None else attend._part(value)  # pyright: ignore[reportPrivateUsage]
            answer = normalized(part) if attend.normalize else part
            number = -1 if part is None else self._number(answer)
            if number == len(self.answers):
                self.answers.append(answer)
                self.firsts.append(place)
            self.of_voter.append(number)

    def _number(self, answer: Any) -> int:
        for number, other in enumerate(self.answers):
            if other == answer:
                return number
        return len(self.answers)

    def scores(self, weights: Any) -> list[float]:
        """Return the score of each answer: the sum of the weights of those who gave it."""
        scores = [0.0] * len(self.answers)
        for number, weight in zip(self.of_voter, weights, strict=True):
            if number >= 0:
                scores[number] += float(weight)
        return scores

    def means(self, given: Sequence[Any]) -> list[float]:
        """Return the mean of the scores that those who gave an answer have."""
        found: list[list[float]] = [[] for _ in self.answers]
        for number, score in zip(self.of_voter, given, strict=True):
            if number >= 0 and score is not None:
                if not isinstance(score, bool | np.bool_) and not is_figure(score):
                    raise ReducerError(f"a score is {shown(score)}; expected a number >= 0, True or False.")
                found[number].append(float(cast("Any", score)))
        return [sum(each) / len(each) if each else 0.0 for each in found]


def attend(
    voters: Sequence[str] | int,
    *,
    key: Key | None = None,
    normalize: bool = False,
    give: Give = "key",
) -> Attend:
    """Return a vote whose weights are learned: for `reduce_edge`, or for `merge=` of a `parallel`.

    The answer with the highest sum of weights wins. All weights are 1 at first, so it is
    `mahsm.reducers.majority_vote`, ties included. `fit` learns the weights from answers of which it is known
    how good they are. It sees which voters are often right, and which only repeat each other: four voters of
    one opinion then count about as much as one. `learn.train` does so for a graph.

    A voter that is None, failed or was skipped abstains. `mahsm.operators.save` and `load` write and read the
    weights; they need a vote of the same voters.

    Args:
        voters: The names of the branches of a `parallel`; or how many entries a list has, such as the
            `sample=` of a `vmap`, whose voters are the places from 0.
        key: Vote on this part of each value; by default on the whole value.
        normalize: Count strings as equal that differ only in case, whitespace, and punctuation at their ends.
        give: What to return: `"key"`, the part that was voted on, or `"item"`, the first value that has it.
            A `parallel` gets the update of the first branch that gave the winning answer.

    Returns:
        An operator: `vote(answers)` with a list, or a dict by voter.

    Raises:
        LearnError: immediately, for invalid arguments.
        ReducerError: when called, if there is not a value for each voter, all of them abstain, or a value
            lacks the key.

    Example:
        >>> from mahsm.learn import attend
        >>> vote = attend(["careful", "hasty", "hastier"])
        >>> vote(["Paris", "Rome", "Rome"])
        'Rome'
        >>> rows = [{"answers": ["Paris", "Rome", "Rome"], "right": "Paris"}] * 20
        >>> vote.fit(rows)
        20
        >>> vote(["Paris", "Rome", "Rome"]), vote.weights["careful"] > 1.5
        ('Paris', True)
    """
    return Attend(voters, key=key, normalize=normalize, give=give)


def _voters(voters: Any) -> tuple[Voter, ...]:
    if type(voters) is int and voters >= 1:
        return tuple(range(voters))
    is_list = hasattr(voters, "__iter__") and not isinstance(voters, str)
    names: list[Any] = list(cast("Any", voters)) if is_list else []
    if not names or not all(isinstance(each, str) and each for each in names) or len({*names}) < len(names):
        raise LearnError(
            f"attend: voters={shown(cast('Any', voters))}; expected different names, such as ['cheap', "
            "'strong'], or how many there are."
        )
    return tuple(names)
