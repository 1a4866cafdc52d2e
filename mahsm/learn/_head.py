"""The linear head of a router: for each arm, a ridge regression of rewards on features, kept up to date.

For an arm, `A = I + sum(z z')` over its choices and `b = sum(reward * z)`. The head keeps the inverse of `A`
and the weights `inv(A) b`, and changes both for each reward (Sherman and Morrison), so neither a decision nor
an update solves a system.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]


class LinearHead:
    """Ridge regressions of all arms.

    Args:
        inverse: Inverses of `A`, shape `(arms, dims, dims)`; they are changed in place.
        weights: Shape `(arms, dims)`; likewise.
        forget: By what earlier rewards count less with each new one, in (0, 1].
    """

    def __init__(self, inverse: Array, weights: Array, forget: float) -> None:
        self.inverse = inverse
        self.weights = weights
        self._forget = forget

    @classmethod
    def unlearned(cls, arms: int, dims: int, forget: float) -> "LinearHead":
        return cls(np.tile(np.eye(dims), (arms, 1, 1)), np.zeros((arms, dims)), forget)

    def expected(self, z: Array) -> tuple[Array, Array]:
        """Return the expected rewards and their standard deviations, each of shape `(arms,)`."""
        inverse = self.inverse
        # One product of a matrix and a vector takes half as long as one for each arm.
        variances = inverse.reshape(-1, z.size).dot(z).reshape(inverse.shape[:2]).dot(z)
        np.maximum(variances, 0.0, out=variances)
        return self.weights.dot(z), np.sqrt(variances, out=variances)

    def expected_of_many(self, zs: Array) -> tuple[Array, Array]:
        """Return the same for features of shape `(rows, dims)`; each of shape `(rows, arms)`."""
        variances = ((zs @ self.inverse) * zs).sum(axis=-1).T
        return zs @ self.weights.T, np.sqrt(np.maximum(variances, 0.0))

    def update(self, arm: int, z: Array, reward: float) -> None:
        """Learn one reward."""
        if self._forget < 1.0:
            self._fade()
        inverse, weights = self.inverse[arm], self.weights[arm]
        # Numbers of Python are faster here than those of NumPy.
        direction = inverse.dot(z)
        gain = direction * (1.0 / (1.0 + float(z.dot(direction))))
        inverse -= gain[:, None] * direction
        gain *= reward - float(weights.dot(z))
        weights += gain

    def _fade(self) -> None:
        """Let earlier rewards of all arms count less: `A` and `b` become smaller, the weights stay.

        An arm's uncertainty grows while it is not chosen. On average over directions, it stays below that of
        an arm without rewards; without this bound it would overflow.
        """
        traces = np.trace(self.inverse, axis1=1, axis2=2)
        growth = np.minimum(1.0 / self._forget, np.maximum(self.inverse.shape[1] / traces, 1.0))
        self.inverse *= growth[:, None, None]

    def add(self) -> None:
        """Add an arm without rewards."""
        dims = self.weights.shape[1]
        self.inverse = np.concatenate([self.inverse, np.eye(dims)[None]])
        self.weights = np.concatenate([self.weights, np.zeros((1, dims))])

    def remove(self, arm: int) -> None:
        self.inverse = np.delete(self.inverse, arm, axis=0)
        self.weights = np.delete(self.weights, arm, axis=0)
