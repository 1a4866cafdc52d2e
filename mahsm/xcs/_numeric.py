"""Numeric functions: given to JAX, where no model may be called."""

import functools
import importlib.util
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from types import FunctionType
from typing import Any

from mahsm._common import shown
from mahsm.errors import JitError
from mahsm.xcs._calls import helpers
from mahsm.xcs._current import current
from mahsm.xcs._source import is_users, rewritten
from mahsm.xcs._step import Step, name_of


class NotNumeric(JitError):
    """A numeric function calls something that JAX cannot trace."""


class _Numeric:
    """Stands for the run of a function while JAX traces it: no step may begin."""

    is_over = False
    is_direct = True
    body = None

    def __init__(self, what: str) -> None:
        self._what = what

    def step(self, callee: Any, args: Any, kwargs: Any, name: str | None = None) -> Any:
        raise NotNumeric(
            f"{self._what}: {name or name_of(callee)} is called while JAX traces the function, which would "
            "call it once, for all inputs. Call it outside, and pass its result in as an array."
        )

    def scope(self) -> Any:
        return nullcontext()

    def will_format(self, parts: tuple[Any, ...]) -> None:
        """Refuse an f-string of a traced value, which would be the same for all inputs."""
        if any(type(part) is tuple and hasattr(part[0], "aval") for part in parts):
            raise NotNumeric(
                f"{self._what}: an f-string is made of a value while JAX traces the function, which would "
                "make it once, for all inputs. Make it outside."
            )

    def will_change(self, container: Any, method: str = "", key: Any = None) -> None:
        """Do nothing: no step can fail."""

    touched: dict[int, Any] = {}  # noqa: RUF012  nothing pending is ever put into it


@contextmanager
def _traced(what: str) -> Generator[None, None, None]:
    token = current.set(_Numeric(what))  # type: ignore[arg-type]
    try:
        yield
    finally:
        current.reset(token)


def numeric(function: Callable[..., Any], what: str) -> Callable[..., Any]:
    """Return a function for JAX to trace, which raises `NotNumeric` where a step would begin."""
    plain = function
    while isinstance(plain, Step):
        plain = plain.function
    body: Callable[..., Any] = plain
    if (
        isinstance(plain, FunctionType)
        and is_users(plain)
        and (found := rewritten(plain, helpers)) is not None
    ):
        body = found.of(plain)

    @functools.wraps(plain)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with _traced(what):
            return body(*args, **kwargs)

    return traced


def is_array(value: Any) -> bool:
    """Return whether a value is an array of NumPy or JAX, or is traced by JAX."""
    dimensions: Any = getattr(value, "ndim", 0) if hasattr(value, "dtype") else 0
    return dimensions > 0


def jax_or_none() -> Any:
    """Return JAX, or None if it is not installed."""
    if importlib.util.find_spec("jax") is None:  # pragma: no cover
        return None
    return importlib.import_module("jax")


def needed_jax(what: str) -> Any:
    """Return JAX.

    Raises:
        ImportError: if it is not installed.
    """
    jax: Any = jax_or_none()
    if jax is None:  # pragma: no cover
        raise ImportError(f"{what} needs JAX, which is not installed: pip install 'mahsm[jax]'")
    return jax


def compiled(function: Callable[..., Any]) -> Any:
    """Return a numeric function, compiled by `jax.jit`."""
    return needed_jax("xcs.jit(backend='jax')").jit(numeric(function, "xcs.jit"))


def grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, **options: Any
) -> Callable[..., Any]:
    """Return a function that computes the gradient of a numeric function, by `jax.grad`.

    Args:
        function: A function of arrays to a scalar; jitted ones too.
        argnums: The positions of the arguments to differentiate by.
        **options: Other options of `jax.grad`.

    Raises:
        TypeError: immediately, if `function` cannot be called.
        ImportError: immediately, without JAX.
        JitError: when called, if the function calls a model or another step, which it names.

    Example:
        >>> from mahsm import xcs
        >>> float(xcs.grad(lambda x: x**2)(3.0))
        6.0
    """
    if not callable(function):
        raise TypeError(f"xcs.grad got {shown(function)}; expected a function of arrays.")
    return needed_jax("xcs.grad").grad(numeric(function, "xcs.grad"), argnums, **options)
