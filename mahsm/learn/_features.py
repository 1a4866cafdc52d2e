"""Features of what is routed: numbers, a function, or embeddings with at most 64 dimensions."""

import sys
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np

from mahsm._common import shown
from mahsm.errors import LearnError
from mahsm.learn._head import Array

MOST_EMBEDDED = 64
"""Dimensions of an embedding that a router learns from. Its time and memory grow with their square."""


class Features:
    """Turns what is routed into a vector: the features, and a 1 for the intercept.

    Args:
        source: None, a function, a `dspy.Embedder`, or LangChain's `Embeddings`.
    """

    def __init__(self, source: Any) -> None:
        self._embed = _embedding(source)
        self._function: Callable[[Any], Any] | None = None if self._embed else source
        if source is not None and not callable(self._embed or source):
            raise LearnError(
                f"Router: features={shown(source)}; expected None for numbers, a function, a dspy.Embedder, "
                "or an Embeddings of LangChain."
            )

    def vector(self, x: Any) -> Array:
        """Return the vector of one input, shape `(features + 1,)`."""
        if self._embed is not None:
            return with_intercept(_embedded(self._embed([x]), 1)[0])
        return with_intercept(x if self._function is None else self._function(x))

    def vectors(self, xs: Sequence[Any]) -> Array:
        """Return vectors of several inputs, shape `(inputs, features + 1)`; embedders are called once."""
        if self._embed is not None and len(xs):
            return np.stack([with_intercept(row) for row in _embedded(self._embed(list(xs)), len(xs))])
        found = [self.vector(x) for x in xs]
        if len({len(each) for each in found}) > 1:
            raise LearnError(
                f"Router: inputs have {sorted({len(each) - 1 for each in found})} features; expected the "
                "same number for all of a batch."
            )
        return np.stack(found) if found else np.zeros((0, 0))

    def of_log(self, x: Any, dims: int | None) -> Array:
        """Return the vector of a logged choice, whose features may be numbers already."""
        if isinstance(x, list | tuple | np.ndarray):
            numbers = np.asarray(cast("Any", x))
            if numbers.dtype.kind in "biuf" and dims in (None, numbers.size):
                return with_intercept(numbers)
        return self.vector(x)


def with_intercept(x: Any) -> Array:
    """Return numbers, with a 1 behind them; None is no features.

    Raises:
        LearnError: if they are not numbers in one dimension, or not all finite.
    """
    if x is None:
        return np.ones(1)
    try:
        numbers = np.asarray(x, np.float64)
    except (TypeError, ValueError):
        numbers = np.empty((0, 0))
    if numbers.ndim != 1:
        raise LearnError(
            f"Router: the features are {shown(x)}; expected a list or 1-d array of numbers, or None. Pass "
            "features= to make numbers of other inputs."
        )
    z = np.empty(numbers.size + 1)
    z[:-1] = numbers
    z[-1] = 1.0
    if not z @ z < np.inf:  # NaN compares as False
        raise LearnError(f"Router: the features are {shown(x)}; expected finite numbers.")
    return z


def _embedding(source: Any) -> Callable[[list[Any]], Any] | None:
    """Return a function from texts to their embeddings, if the source is an embedder."""
    embed_documents = getattr(source, "embed_documents", None)
    if embed_documents is not None:
        return embed_documents
    # Who has an embedder of DSPy has imported DSPy.
    dspy = sys.modules.get("dspy")
    return source if dspy is not None and isinstance(source, dspy.Embedder) else None


def _embedded(found: Any, count: int) -> Array:
    embeddings = np.asarray(found, np.float64)
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise LearnError(
            f"Router: the embedder returned an array of shape {embeddings.shape}; expected ({count}, "
            "dimensions), a row for each text."
        )
    dims = embeddings.shape[1]
    return embeddings if dims <= MOST_EMBEDDED else embeddings @ _projection(dims)


@lru_cache(maxsize=8)
def _projection(dims: int) -> Array:
    """Return the projection of embeddings, which keeps their distances approximately.

    Its seed is fixed, so what one process has learned fits the embeddings of another.
    """
    draws = np.random.Generator(np.random.PCG64(20240501)).standard_normal((dims, MOST_EMBEDDED))
    return draws / np.sqrt(MOST_EMBEDDED)
