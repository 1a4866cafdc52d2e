"""Loaders: functions that return the rows of a source, by the name of the source."""

import importlib
from collections.abc import Callable
from typing import Any, Protocol, cast

from mahsm._common import Registry, nearest
from mahsm.errors import DataError, RegistryError

loaders = Registry("mahsm.loaders")


class Loader(Protocol):
    """Returns the rows of a source: an iterable, sync or async. It is called again for each pass."""

    def __call__(self, **options: Any) -> Any:
        """Return the rows.

        Args:
            **options: What `stream(name, **options)` was given.
        """
        ...


def register(name: str, loader: Callable[..., Any]) -> None:
    """Register a loader: `stream(name)` then reads what it returns.

    Packages register theirs by an entry point in the group `mahsm.loaders`.

    Args:
        name: The name of the source, such as `"tickets"`.
        loader: A `Loader`: a function that returns an iterable, sync or async.

    Raises:
        RegistryError: if the name is empty, or the loader cannot be called.

    Example:
        >>> from mahsm import data
        >>> data.register("squares", lambda to=3: ({"n": n * n} for n in range(to)))
        >>> data.stream("squares", to=4).collect()
        [{'n': 0}, {'n': 1}, {'n': 4}, {'n': 9}]
        >>> data.unregister("squares")
    """
    if not isinstance(name, str) or not name.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RegistryError(f"data.register: name={name!r}; expected a name, such as 'tickets'.")
    if not callable(loader):
        raise RegistryError(
            f"data.register({name!r}): loader={loader!r}; expected a function that returns an iterable."
        )
    loaders.add(name, loader)


def unregister(name: str) -> None:
    """Remove a loader, if it is registered."""
    loaders.remove(name)


def found(name: str) -> Callable[..., Any] | None:
    """Return the loader of a name, or None."""
    return cast("Callable[..., Any] | None", loaders.find(name))


def of_hugging_face(name: str) -> Callable[..., Any]:
    """Return the loader of a dataset of Hugging Face; its options are those of `datasets.load_dataset`.

    `split` is "train" by default, and `streaming` is True.

    Raises:
        DataError: if `datasets` is not installed.
    """
    near = nearest(name, loaders.names())
    unknown = f"{name!r} is no file here, and no loader is registered under it. {f'{near} ' if near else ''}"
    try:
        datasets: Any = importlib.import_module("datasets")
    except ImportError:
        raise DataError(
            f"{unknown}Pass a path, data.register it, or pip install datasets for those of Hugging Face."
        ) from None

    def load(**options: Any) -> Any:
        try:
            return datasets.load_dataset(name, **{"split": "train", "streaming": True, **options})
        except Exception as error:
            raise DataError(
                f"{unknown}Pass a path, data.register it, or name a dataset of Hugging Face, which says: "
                f"{type(error).__name__}: {error}"
            ) from error

    return load
