"""`RouterOperator`: routing of an input to one of several operators, by trainable weights."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from mahsm._common import as_dict, missing, shown
from mahsm.errors import MissingKeyError
from mahsm.operators._learnable import LearnableOperator
from mahsm.operators._operator import Operator, check_operators
from mahsm.operators._threads import blocking


class RouterOperator(LearnableOperator):
    """Call the operator with the highest score, `weights @ features + bias`.

    The weights are trainable, the models and prompts of the routes are not: they have no gradients.

    Args:
        routes: The operators, by label.
        features: The number of features of an input.
        feature_key: The field of the input, a dict or a model, that has the features: an array or list of
            shape `(features,)`.
        weights: Shape `(routes, features)`; by default zeros, which choose the first route.
        bias: Shape `(routes,)`; by default zeros.

    Attributes:
        labels: The routes' labels, in the order of the scores.

    Raises:
        ValueError: immediately, if `routes` is empty, or if `weights` or `bias` has another shape.
        MissingKeyError: when called, if the input lacks its features.

    Example:
        >>> from mahsm.operators import RouterOperator, op
        >>> members = {"cheap": op(lambda x: "short"), "good": op(lambda x: "long")}
        >>> router = RouterOperator(members, features=1, weights=[[-1.0], [1.0]])
        >>> router({"features": [3.0]}), router.choose([-3.0])
        ('long', 'cheap')
    """

    routes: dict[str, Operator]
    weights: jax.Array
    bias: jax.Array
    labels: tuple[str, ...] = eqx.field(static=True)
    feature_key: str = eqx.field(static=True)

    def __init__(
        self,
        routes: Mapping[str, Operator],
        features: int,
        *,
        feature_key: str = "features",
        weights: Any = None,
        bias: Any = None,
    ) -> None:
        if not isinstance(routes, Mapping) or not routes:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"RouterOperator: routes={shown(routes)}; expected a dict of operators, {{'cheap': op}}."
            )
        check_operators("RouterOperator", "routes", list(routes.values()))
        self.routes = dict(routes)
        self.labels = tuple(routes)
        self.feature_key = feature_key
        self.weights = _shaped("weights", weights, (len(routes), features))
        self.bias = _shaped("bias", bias, (len(routes),))

    def scores(self, features: Any) -> jax.Array:
        """Return the score of each route, shape `(routes,)`, for features of shape `(features,)`."""
        return self.weights @ jnp.asarray(features, self.weights.dtype) + self.bias

    def choose(self, features: Any) -> str:
        """Return the label of the route with the highest score."""
        scores = np.asarray(self.weights) @ np.asarray(features, np.float32) + np.asarray(self.bias)
        return self.labels[int(scores.argmax())]

    def forward(self, input: Any, /) -> Any:
        if self.awaits:
            return blocking(partial(self.aforward, input), awaits=True)
        return self._route(input)(input)

    async def aforward(self, input: Any, /) -> Any:
        return await self._route(input).acall(input)

    @property
    def awaits(self) -> bool:
        return any(route.awaits for route in self.routes.values())

    def _route(self, input: Any) -> Operator:
        values = as_dict(input)
        if self.feature_key not in values:
            raise MissingKeyError(
                f"RouterOperator: {missing(values, self.feature_key, 'the input')} Add the features, "
                "or pass feature_key=."
            )
        return self.routes[RouterOperator.choose(self, values[self.feature_key])]


def _shaped(name: str, value: Any, shape: tuple[int, ...]) -> jax.Array:
    array = jnp.zeros(shape) if value is None else jnp.asarray(value, jnp.float32)
    if array.shape != shape:
        raise ValueError(
            f"RouterOperator: {name} has shape {array.shape}; expected {shape}, from routes and features."
        )
    return array
