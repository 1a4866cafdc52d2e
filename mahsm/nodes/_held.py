"""DSPy modules that nodes hold, and what stands in for them inside a `GraphModule`."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any


class Held:
    """A place in a node that holds a DSPy module.

    A compiled graph cannot be copied, and an optimiser works on copies. So the graph stays one, its nodes ask the place for
    the module whenever they run, and each copy of a `GraphModule` puts its own modules in the place while it runs.

    Attributes:
        module: The module of the graph itself.
    """

    __slots__ = ("module",)

    def __init__(self, module: Any) -> None:
        self.module = module

    @property
    def current(self) -> Any:
        """The module to call here and now."""
        return _standing_in.get().get(self, self.module)


_standing_in: ContextVar[Mapping[Held, Any]] = ContextVar("mahsm_standing_in", default=MappingProxyType({}))


@contextmanager
def standing_in(modules: Mapping[Held, Any]) -> Generator[None, None, None]:
    """In the block, these modules stand in for those that the places hold."""
    token = _standing_in.set({**_standing_in.get(), **modules})
    try:
        yield
    finally:
        _standing_in.reset(token)


def anything_stands_in() -> bool:
    """Whether a `GraphModule` runs around here, so that what was kept of other modules says nothing."""
    return bool(_standing_in.get())
