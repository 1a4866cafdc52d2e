"""`cached`: an attribute that is computed on first access."""

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class cached(Generic[T]):
    """Like `functools.cached_property`, without the lock that it has up to Python 3.11.

    That lock is shared by all objects. If a process forks while another thread holds it, the child process
    waits for it forever.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any]) -> T: ...
    def __get__(self, instance: object | None, owner: type[Any]) -> T | Self:
        """Return the value; if two threads compute it at the same time, both get the same one."""
        return self if instance is None else vars(instance).setdefault(self._name, self._make(instance))
