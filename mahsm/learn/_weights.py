"""Fitting of the weights of voters: the likelihood of the right answers, by Optax."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

SHIFT = math.log(math.e - 1.0)
"""The softplus of it is 1: so an offset of 0 is a weight of 1, and the plain vote."""

_STEPS = 200
_EXACT = 1e-4
"""The gradient at which the fit ends, for a row."""


@dataclass(frozen=True)
class Ballot:
    """The answers to one question.

    Attributes:
        votes: For each voter the number of its answer; -1 if it abstains.
        shares: For each answer, the share of it in what is right; the sum is 1.
    """

    votes: Sequence[int]
    shares: Sequence[float]


def weights_of(offsets: Any) -> np.ndarray:
    """Return the weights of voters, each >= 0."""
    return np.logaddexp(0.0, np.asarray(offsets, np.float64) + SHIFT) / np.logaddexp(0.0, SHIFT)


def fitted(offsets: Any, ballots: Sequence[Ballot], l2: float) -> Any:
    """Return the offsets that explain the ballots best, with a normal prior around the plain vote.

    The score of an answer is the sum of the weights of its voters, and the probability that it is right is
    the softmax of the scores. The prior counts once, as each ballot does, so few ballots change little.

    Args:
        offsets: Where to begin, shape `(voters,)`.
        ballots: What to learn from.
        l2: The inverse variance of the prior.
    """
    rows, answers = _padded(len(ballots)), len(offsets)
    votes = np.full((rows, len(offsets)), -1, np.int32)
    shares = np.zeros((rows, answers), np.float32)
    given = np.zeros((rows, answers), bool)
    for row, ballot in enumerate(ballots):
        votes[row] = ballot.votes
        shares[row, : len(ballot.shares)] = ballot.shares
        given[row, : len(ballot.shares)] = True
    given[len(ballots) :, 0] = True  # rows of padding, which have no share in the likelihood
    return _minimised(jnp.asarray(offsets), votes, shares, given, l2, len(ballots))


def _padded(rows: int) -> int:
    """Return a power of two, so that few sizes are compiled."""
    return max(16, 1 << (rows - 1).bit_length())


def _loss(offsets: Any, votes: Any, shares: Any, given: Any, l2: Any, rows: Any) -> Any:
    weights = jax.nn.softplus(offsets + SHIFT)
    gave = votes[:, :, None] == jnp.arange(given.shape[1])
    scores = jnp.where(given, jnp.einsum("v,rva->ra", weights, gave.astype(weights.dtype)), -jnp.inf)
    unlikely = -jnp.sum(shares * jnp.where(given, jax.nn.log_softmax(scores), 0.0))
    return (unlikely + 0.5 * l2 * jnp.sum(offsets**2)) / rows


@eqx.filter_jit
def _minimised(offsets: Any, votes: Any, shares: Any, given: Any, l2: Any, rows: Any) -> Any:
    loss = partial(_loss, votes=votes, shares=shares, given=given, l2=l2, rows=rows)
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: Any) -> Any:
        at, state, count = carry
        value, grad = value_and_grad(at, state=state)
        updates, state = solver.update(grad, state, at, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(at, updates), state, count + 1

    def goes_on(carry: Any) -> Any:
        _, state, count = carry
        slope = optax.tree.norm(optax.tree.get(state, "grad"))
        return (count == 0) | ((count < _STEPS) & (slope > _EXACT))

    return jax.lax.while_loop(goes_on, step, (offsets, solver.init(offsets), 0))[0]
