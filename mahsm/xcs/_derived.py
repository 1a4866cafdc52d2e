"""Values that are computed from pending ones, without waiting: attributes, items, arithmetic, strings."""

import operator
from collections.abc import Callable, Collection
from typing import Any

from mahsm.xcs._cells import Cell, settling
from mahsm.xcs._containers import Arguments, copied, forced
from mahsm.xcs._lines import Line, line_here, show_line
from mahsm.xcs._pending import Pending, cell_of, value_of

STRING_METHODS = frozenset(
    name for name in dir(str) if not name.startswith("_") and name not in {"join", "count", "index"}
)
"""Methods that give a pending value if they are called on one."""


def attribute(owner: Pending, name: str) -> Any:
    """Return an attribute of a pending value."""
    result = _accessed(owner, lambda value: getattr(value, name))
    if type(result) is Pending:
        cell_of(result).owner = (owner, name)
    return result


def item(owner: Pending, key: Any) -> Any:
    """Return an item of a pending value; a key that is pending is waited for."""
    key = forced(key)
    return _accessed(owner, lambda value: operator.getitem(value, key))


def _accessed(owner: Pending, access: Callable[[Any], Any]) -> Any:
    """Return something that is reached from a pending value, and is the very object that it holds."""
    cell = cell_of(owner)
    if cell.is_settled:
        return access(value_of(owner))
    made = _new_cell([cell])
    cell.add(_Access(made, access, line_here()))
    return Pending(made)


class _Access:
    """An attribute or an item of one pending value."""

    __slots__ = ("_access", "_cell", "_line")

    def __init__(self, cell: Cell, access: Callable[[Any], Any], line: Line | None) -> None:
        self._cell = cell
        self._access = access
        self._line = line

    def arrived(self, cell: Cell) -> None:
        if cell.error is not None:
            self._cell.settle(None, cell.error)
        else:
            _settle_by(self._cell, lambda: self._access(cell.value), self._line)


def derived(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of values, some of which may be pending: it must only depend on their values.

    Returns:
        What the function returns; pending, if it has to wait for an argument.
    """
    given = Arguments(args, kwargs)
    needed = given.needed.values()
    if all(cell.is_settled for cell in needed):
        return function(*map(forced, args), **{name: forced(arg) for name, arg in kwargs.items()})
    cell = _new_cell(needed)
    cell.is_text = _gives_text(function, args)
    line = line_here()

    def compute(values: dict[int, Any]) -> None:
        given_args, given_kwargs = given.filled(values)
        _settle_by(cell, lambda: function(*given_args, **given_kwargs), line)

    Arrivals(needed, compute, cell.settle).start()
    return Pending(cell)


def _gives_text(function: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Return whether the result is known to be immutable, so that `+=` cannot change it in place."""
    if function in _TEXT:
        return True
    return any(
        type(arg) in {str, int, float} or (type(arg) is Pending and cell_of(arg).is_text) for arg in args
    )


_TEXT: set[Any] = {str, repr, len, int, float, format}


def gives_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function whose results are strings or numbers."""
    _TEXT.add(function)
    return function


def _new_cell(needed: Collection[Cell]) -> Cell:
    if len(needed) == 1:
        for only in needed:
            return only.host.new_cell(only.steps)
    steps: dict[int, None] = {}
    for cell in needed:
        steps.update(dict.fromkeys(cell.steps))
    host: Any = max(needed, key=lambda cell: cell.number).host
    return host.new_cell(tuple(steps))


def _settle_by(cell: Cell, function: Callable[[], Any], line: Line | None) -> None:
    try:
        value = settling.compute(function)
    except BaseException as error:  # noqa: BLE001  it is raised where the value is used
        show_line(error, line)
        cell.settle(None, error)
        return
    if type(value) is Pending:
        # What a step gave holds a pending value of another run, which is settled.
        value = value_of(value)
    cell.settle(value)


class Arrivals:
    """Waits until all of some cells are settled, and then goes on with their values.

    Values that can change are copied when they arrive: the function may change them before the last one is
    there.

    Args:
        needed: The cells.
        go_on: Called with the values, by the `id` of their cells.
        fail: Called with None and the first error that arrives, instead.
    """

    def __init__(
        self,
        needed: Collection[Cell],
        go_on: Callable[[dict[int, Any]], None],
        fail: Callable[[None, BaseException], None],
    ) -> None:
        self._needed = needed
        self._go_on = go_on
        self._fail = fail
        self._values: dict[int, Any] = {}
        self._is_over = False

    def start(self) -> None:
        if not self._needed:
            self._go_on(self._values)
        for cell in self._needed:
            cell.add(self)

    def arrived(self, cell: Cell) -> None:
        error = cell.error
        value = None if error is not None else copied(cell.value)
        with cell.host.lock:
            if self._is_over:
                return
            self._values[id(cell)] = value
            self._is_over = error is not None or len(self._values) == len(self._needed)
            if not self._is_over:
                return
        if error is not None:
            self._fail(None, error)
        else:
            self._go_on(self._values)
