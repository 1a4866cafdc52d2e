"""`vmap`: a function of one item as a function of many."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from mahsm._common import check, shown
from mahsm.edges import vmap as vmap_edge
from mahsm.nodes._internal import node_name
from mahsm.xcs._numeric import NotNumeric, is_array, jax_or_none, numeric
from mahsm.xcs._step import Step, is_async, name_of

Axes = int | None | Sequence[int | None]


class Vmapped(Step[..., Any]):
    """A function over many items. Made by `vmap`."""

    def __init__(
        self, function: Callable[..., Any], axes: Axes, max_concurrency: int, batch_size: int | None
    ) -> None:
        super().__init__(function, ordered=False)
        self._axes = axes
        self._size = batch_size
        self._numeric: Callable[..., Any] | None = None
        self._name = name_of(function)
        target: Any = functools.partial(_awaited if is_async(function) else _called, function)
        # Names in the notes of errors, and in traces.
        target.__name__ = self._name
        self._edge = vmap_edge(
            target,
            batch_key="items",
            out_key="results",
            item_to_state=_as_state,
            inherit=False,
            result="result",
            max_concurrency=max_concurrency,
            name=f"xcs.vmap({node_name(self._name)})",
        )

    def __repr__(self) -> str:
        return f"vmap({shown(self.function)})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        axes = self._axes_of(args)
        done, result = self._by_jax(args, kwargs, axes)
        if done:
            return result
        items = self._items(args, kwargs, axes)
        results: list[Any] = []
        for batch in self._batches(items):
            results += self._edge.invoke({"items": batch})["results"]
        return _stacked(results)

    def _axes_of(self, args: tuple[Any, ...]) -> list[int | None]:
        axes = self._axes
        found = [axes] * len(args) if axes is None or isinstance(axes, int) else list(axes)
        if len(found) != len(args):
            raise ValueError(
                f"xcs.vmap: in_axes={axes!r} has {len(found)} entries, and {self._name} was called with "
                f"{len(args)} arguments. Pass one entry for each, or a single one for all."
            )
        if all(axis is None for axis in found):
            raise ValueError(
                f"xcs.vmap: in_axes={axes!r} maps none of the {len(args)} positional arguments of "
                f"{self._name}; expected an axis for at least one. Pass what to map over by position: "
                "arguments by name go to each call as they are."
            )
        return found

    # Arrays.

    def _by_jax(self, args: Any, kwargs: Any, axes: list[int | None]) -> tuple[bool, Any]:
        """Map over arrays by `jax.vmap`, if JAX can trace the function."""
        mapped = [arg for arg, axis in zip(args, axes, strict=True) if axis is not None]
        if self.is_async or not all(map(is_array, mapped)) or (jax := jax_or_none()) is None:
            return False, None
        if self._numeric is None:
            self._numeric = numeric(self.function, "xcs.vmap")
        function = functools.partial(self._numeric, **kwargs) if kwargs else self._numeric
        many = jax.vmap(function, in_axes=tuple(axes))
        try:
            if self._size is None:
                return True, many(*args)
            parts = [many(*part) for part in self._array_batches(args, axes)]
        except (NotNumeric, jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
            return False, None
        return True, jax.tree.map(_concatenated, *parts)

    def _array_batches(self, args: Any, axes: list[int | None]) -> Iterable[list[Any]]:
        size = self._size or 1
        length = next(arg.shape[axis] for arg, axis in zip(args, axes, strict=True) if axis is not None)
        for begin in range(0, max(length, 1), size):
            yield [
                arg if axis is None else _sliced(arg, axis, begin, begin + size)
                for arg, axis in zip(args, axes, strict=True)
            ]

    # Items.

    def _items(self, args: Any, kwargs: Any, axes: list[int | None]) -> list[Any]:
        columns = [
            None if axis is None else self._column(place, arg, axis)
            for place, (arg, axis) in enumerate(zip(args, axes, strict=True))
        ]
        lengths = {place: len(column) for place, column in enumerate(columns) if column is not None}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"argument {place} has {length}" for place, length in lengths.items())
            raise ValueError(f"xcs.vmap: {self._name}: {found}; expected arguments of equal length.")
        length = next(iter(lengths.values()))
        return [
            (
                tuple(
                    arg if column is None else column[index]
                    for arg, column in zip(args, columns, strict=True)
                ),
                kwargs,
            )
            for index in range(length)
        ]

    def _column(self, place: int, arg: Any, axis: int) -> Sequence[Any]:
        if is_array(arg):
            return [_sliced(arg, axis, index, None) for index in range(arg.shape[axis])]
        if axis != 0:
            raise ValueError(
                f"xcs.vmap: in_axes maps axis {axis} of argument {place} of {self._name}, which is a "
                f"{type(arg).__name__}; only arrays have more axes than 0."
            )
        if isinstance(arg, str | bytes | dict) or not isinstance(arg, Iterable):
            raise TypeError(
                f"xcs.vmap: argument {place} of {self._name} is {shown(cast('object', arg))}; expected a "
                "list or an array to map over. Pass in_axes with None at its place to give it to each call."
            )
        return list(cast("Iterable[Any]", arg))

    def _batches(self, items: list[Any]) -> Iterable[list[Any]]:
        size = self._size or max(len(items), 1)
        return [items[begin : begin + size] for begin in range(0, len(items), size)]


class AsyncVmapped(Vmapped):
    """An async function over many items."""

    is_async = True

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        items = self._items(args, kwargs, self._axes_of(args))
        results: list[Any] = []
        for batch in self._batches(items):
            results += (await self._edge.ainvoke({"items": batch}))["results"]
        return _stacked(results)


def _concatenated(*leaves: Any) -> Any:
    return jax_or_none().numpy.concatenate(leaves)


def _as_state(item: Any) -> dict[str, Any]:
    return {"args": item[0], "kwargs": item[1]}


def _called(function: Callable[..., Any], state: dict[str, Any]) -> dict[str, Any]:
    return {"result": function(*state["args"], **state["kwargs"])}


async def _awaited(function: Callable[..., Any], state: dict[str, Any]) -> dict[str, Any]:
    return {"result": await function(*state["args"], **state["kwargs"])}


def _sliced(array: Any, axis: int, begin: int, end: int | None) -> Any:
    return array[(slice(None),) * (axis % array.ndim) + (begin if end is None else slice(begin, end),)]


def _stacked(results: list[Any]) -> Any:
    """Return an array of results that are arrays of one shape; a list of others."""
    if not results or not all(is_array(one) or hasattr(one, "dtype") for one in results):
        return results
    if len({(one.shape, str(one.dtype)) for one in results}) > 1:
        return results
    import numpy as np

    if any(not isinstance(one, np.ndarray | np.generic) for one in results):
        return jax_or_none().numpy.stack(results)
    return np.stack(results)


@check.arguments(
    "xcs.vmap",
    retry="Map mahsm.retry(function).",
    timeout="Map mahsm.timeout(function, seconds).",
    **dict.fromkeys(("on_error", "rate_limit", "budget", "progress"), "An edge has it: mahsm.vmap."),
)
def vmap(
    function: Callable[..., Any] | None = None,
    /,
    in_axes: Axes = 0,
    *,
    max_concurrency: int = 8,
    batch_size: int | None = None,
) -> Any:
    """Make a function of one item a function of many.

    Arrays are mapped by `jax.vmap` if JAX can trace the function. Anything else is mapped as a `vmap` edge
    does, in threads or tasks; so are arrays if the function calls a model. Keyword arguments go to each call.
    The first error is raised, and the other calls are cancelled.

    Args:
        function: The function, sync or async.
        in_axes: The axis of each positional argument to map over, None to pass the argument to each call; one
            for all, or a list. Lists have axis 0 only.
        max_concurrency: The number of calls at the same time, >= 1.
        batch_size: The number of items that are taken together, one batch after the other; by default all.

    Returns:
        A function that returns its results in the order of the items: an array of results that are arrays of
        one shape, otherwise a list.

    Raises:
        TypeError: immediately, if `function` cannot be called; when called, for what cannot be mapped over.
        ValueError: when called, for lengths that differ, or axes that do not fit.
        EdgeError: immediately, for an invalid option.

    Example:
        >>> from mahsm import xcs
        >>> xcs.vmap(str.upper)(["a", "b"])
        ['A', 'B']
        >>> xcs.vmap(lambda x, y: f"{x}{y}", in_axes=(0, None))(["a", "b"], "!")
        ['a!', 'b!']
    """
    if function is None:
        return functools.partial(
            vmap, in_axes=in_axes, max_concurrency=max_concurrency, batch_size=batch_size
        )
    if not callable(function):
        raise TypeError(f"xcs.vmap got {shown(function)}; expected a function of one item.")
    check.whole("xcs.vmap", "max_concurrency", max_concurrency, "It bounds the calls at the same time.")
    if batch_size is not None:
        check.whole("xcs.vmap", "batch_size", batch_size, "Leave it out to take all items together.")
    kind = AsyncVmapped if is_async(function) else Vmapped
    return kind(function, in_axes, max_concurrency, batch_size)
