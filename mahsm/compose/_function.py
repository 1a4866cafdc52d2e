"""`ComposedFunction`: an operator that is called as the function that it is made of."""

import functools
import importlib
import inspect
from abc import abstractmethod
from collections.abc import Coroutine
from dataclasses import dataclass
from types import MethodType
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, cast

from mahsm._waiting import TASK, THREAD, Way, run_blocking
from mahsm.compose._calls import Kind, hints_of, name_of
from mahsm.operators import Operator

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class _OfFunction:
    """Descriptor of an attribute that `functools.wraps` would copy; of the class itself, what the class has.

    Args:
        name: The attribute.
        of_class: What the class has, if it has the attribute.
    """

    def __init__(self, name: str, *of_class: Any) -> None:
        self._name = name
        self._of_class = of_class

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        if instance is not None:
            return owner.about(instance, self._name)
        if self._of_class:
            return self._of_class[0]
        raise AttributeError(self._name)


class ComposedFunction(Operator, Generic[P, R]):
    """A function made of functions, and an operator: a target of every edge, a node, part of other operators.

    It is called as the function that it is made of. If that is async, the call returns a coroutine; `acall`
    awaits in any case. A function with several required parameters also takes one dict or model of its
    arguments, as operators do. Its name, docstring and signature are those of the function.
    """

    kind: Kind
    """The kind of the whole."""

    made_by: ClassVar[str]
    """The name of the function that makes it."""

    _composed = True
    __name__: ClassVar[Any] = _OfFunction("__name__")
    __wrapped__: ClassVar[Any] = _OfFunction("__wrapped__")
    __signature__: ClassVar[Any] = _OfFunction("__signature__")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__doc__ = cast("Any", _OfFunction("__doc__", cls.__doc__ or cls.__name__))

    @property
    @abstractmethod
    def first(self) -> Any:
        """The function that gets the arguments."""

    @property
    def returns(self) -> Any:
        """The annotation of the result, or None."""
        return hints_of(self.first).get("return")

    def about(self, name: str) -> Any:
        """Return an attribute that describes the function."""
        if name == "__name__":
            return self.kind.name
        if name == "__wrapped__":
            return self.first
        if name == "__doc__":
            return cast("Any", type(self)).described(self)
        try:
            return inspect.signature(self.first)
        except (TypeError, ValueError):  # some builtins have none
            raise AttributeError(name) from None

    def described(self) -> str | None:
        """Return the docstring of the function."""
        return getattr(self.first, "__doc__", None)

    @property
    def parts(self) -> tuple[Any, ...]:
        """The functions that it is made of."""
        return (self.first,)

    def __repr__(self) -> str:
        # The fields would fill a page, and errors show functions.
        names = (
            repr(cast("Any", part)) if isinstance(part, ComposedFunction) else name_of(part)
            for part in self.parts
        )
        return f"{self.made_by}({', '.join(names)})"

    @abstractmethod
    async def run(self, way: Way, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do the work, in one of the two ways to wait."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:  # pyright: ignore[reportIncompatibleMethodOverride]
        return run_blocking(cast("Any", type(self)).run(self, THREAD, args, kwargs))

    def acall(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Async version of `__call__`; what blocks runs in a thread of its own."""
        return cast("Any", type(self)).run(self, TASK, args, kwargs)

    def forward(self, input: Any, /) -> Any:
        return cast("Any", type(self)).__call__(self, input)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        # As a decorator of methods.
        return self if instance is None else MethodType(self, instance)

    def __reduce_ex__(self, protocol: Any, /) -> Any:
        # A decorated function is pickled by its name, as functions are: the name stands for the whole.
        inner: Any = inspect.unwrap(cast("Any", self))
        place = getattr(inner, "__module__", None), getattr(inner, "__qualname__", "")
        return (_named, place) if _named(*place) is self else super().__reduce_ex__(protocol)

    def title(self) -> str:
        return self.kind.name

    @property
    def awaits(self) -> bool:
        return self.kind.awaits

    @property
    def is_async(self) -> bool:
        """True if a call returns a coroutine."""
        return self.kind.is_async


def _named(module: str | None, qualname: str) -> Any:
    """Return what a module has under a name; None if it has nothing."""
    try:
        return functools.reduce(getattr, qualname.split("."), importlib.import_module(module or ""))
    except (ImportError, AttributeError, ValueError):
        return None


class AwaitedFunction(ComposedFunction[P, R]):
    """A composed function that is async, as LangGraph and web frameworks see by its `__call__`."""

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return await cast("Any", type(self)).run(self, TASK, args, kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else AwaitedMethod(self, instance)


@dataclass(frozen=True)
class AwaitedMethod:
    """A bound method that is async, as LangGraph and web frameworks see by its `__call__`.

    `types.MethodType` has another `__call__`, which they would take for that of a plain function.
    """

    __func__: Any
    __self__: Any

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await self.__func__(self.__self__, *args, **kwargs)

    @property
    def __doc__(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.__func__.__doc__

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the function without its first parameter."""
        whole = inspect.signature(self.__func__)
        return whole.replace(parameters=list(whole.parameters.values())[1:])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)


def is_awaited(function: Any) -> bool:
    """Return whether calls of something return a coroutine: an async function, or an object of one."""
    call = getattr(function, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


class Shared:
    """State that belongs to a function in this process: copies share it, pickles leave it out."""

    def __init__(self, *options: Any) -> None:
        self._options = options

    def __deepcopy__(self, memo: dict[int, Any]) -> "Shared":
        return self

    def __reduce__(self) -> Any:
        return type(self), self._options
