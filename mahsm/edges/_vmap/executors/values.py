"""Items, entries and errors as bytes, so that they are the same in another process.

Classes of `__main__` and of notebooks have no module that a worker could import. cloudpickle sends them by
value, and knows them again when they come back. Plain pickle would send a class of `__main__` by its name:
then the class of an item would be another one than that which the target compares it with.
"""

import pickle
import traceback
from collections.abc import Callable, Mapping
from typing import Any, cast

import cloudpickle

from mahsm._common import add_note
from mahsm.errors import EdgeError

_GLOBAL = pickle.STACK_GLOBAL
"""Is in the bytes of all values that are more than numbers, strings and containers."""


def packed_value(value: object) -> bytes:
    """Return a value as bytes that `pickle.loads` reads."""
    return cloudpickle.dumps(value, protocol=5)


def packed_entries(edge: str, entries: Mapping[int, Any], count: int) -> tuple[bytes, dict[int, bytes]]:
    """Return the entries of a part as bytes, and the errors of those that cannot be sent back.

    Args:
        edge: The edge's name.
        entries: The entries, by the items' numbers in the part.
        count: The number of items of the part. If all have an entry, the bytes are those of a list.
    """
    try:
        whole = [entries[number] for number in range(count)] if len(entries) == count else dict(entries)
        return _checked(whole), {}
    except Exception:  # noqa: BLE001  some entry is the reason
        return _one_by_one(edge, entries)


def _one_by_one(edge: str, entries: Mapping[int, Any]) -> tuple[bytes, dict[int, bytes]]:
    found: dict[int, _Packed] = {}
    failures: dict[int, bytes] = {}
    for number, entry in entries.items():
        try:
            found[number] = _Packed(_checked(entry))
        except Exception as error:  # noqa: BLE001  the parent raises it, as its policy says
            failures[number] = packed_error(
                EdgeError(
                    f"{edge}: the result cannot be sent back from a worker: {type(error).__name__}: {error}. "
                    "Return plain values."
                )
            )
    return packed_value(found), failures


def _checked(value: object) -> bytes:
    """Return a value as bytes, which can be read again: some objects can be pickled and not unpickled."""
    data = packed_value(value)
    if _GLOBAL in data:
        pickle.loads(data)
    return data


class _Packed:
    """A value that is bytes already; unpickling gives the value itself."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return pickle.loads, (self._data,)


def packed_error(error: BaseException) -> bytes:
    """Return an error as bytes, with its traceback as a note.

    One whose class takes other arguments than `args` is made again without them. One that cannot be sent at
    all becomes an `EdgeError` that shows it.
    """
    told = "".join(traceback.format_exception(error)).rstrip()
    for pack in (packed_value, _made_again):
        try:
            again = cast("BaseException", pickle.loads(pack(error)))
            if type(again) is type(error) and str(again) == str(error):
                add_note(again, f"in a worker:\n{told}")
                return pack(again)
        except Exception:  # noqa: BLE001  the next way then
            continue
    shown = "".join(traceback.format_exception_only(error)).rstrip()
    return pickle.dumps(EdgeError(f"{shown}\n{told}"))


def _made_again(error: BaseException) -> bytes:
    """Return an error as bytes that holds its class, `args` and plain attributes."""
    state = {name: value for name, value in vars(error).items() if _is_plain(value)}
    return packed_value(_Error(type(error), error.args, state))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, cast("list[object]", value)))
    if isinstance(value, dict):
        return all(map(_is_plain, (pair for item in cast("Any", value).items() for pair in item)))
    return value is None or isinstance(value, str | bytes | int | float)


class _Error:
    """What an error is made of; unpickling gives the error."""

    def __init__(self, kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> None:
        self._parts = kind, args, state

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _error, self._parts


def _error(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(state)
    return error
