"""A value that an object makes when it is first asked for."""

from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")


class cached(Generic[T]):
    """As `functools.cached_property`, without the lock that it has up to Python 3.11.

    That lock is one for all objects: a process that forks while another thread holds it waits for it for
    ever.
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
        """The object's value; of two threads that make one, both get the same."""
        return self if instance is None else vars(instance).setdefault(self._name, self._make(instance))
