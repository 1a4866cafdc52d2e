"""Files of operators: a header in JSON that describes the arrays, and the arrays in Equinox's format."""

import dataclasses
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from enum import Enum
from importlib.metadata import version
from itertools import zip_longest
from typing import Any, TypeVar, cast

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from mahsm._common import shown
from mahsm._numeric import jax

TreeT = TypeVar("TreeT")

_FORMAT = 2


def save(path: str | os.PathLike[str], op: Any) -> None:
    """Write the arrays of an operator to a file, after a header that describes them.

    The file contains nothing else of the operator: no model, prompt or API key. An existing file is replaced
    when everything is written; if an error occurs before that, it stays as it was.

    Args:
        path: Path of the file.
        op: The operator, or any other tree.

    Raises:
        TypeError: if the operator has labels that are neither JSON values nor enums.

    Example:
        >>> import equinox as eqx, jax, pathlib, tempfile
        >>> from mahsm.operators import load, save
        >>> linear, other = (eqx.nn.Linear(2, 1, key=jax.random.key(seed)) for seed in (0, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(pathlib.Path(folder, "linear"), linear)
        ...     bool((load(pathlib.Path(folder, "linear"), other).weight == linear.weight).all())
        True
    """
    arrays = io.BytesIO()
    eqx.tree_serialise_leaves(arrays, op, filter_spec=_write)
    header = json.dumps({**_described(op), "bytes": arrays.tell()})
    _replace(path, header.encode() + b"\n" + arrays.getvalue())


def load(path: str | os.PathLike[str], like: TreeT) -> TreeT:
    """Return an operator with the arrays of a file.

    Args:
        path: A file that `save` has written.
        like: An operator with the same class name (in any module), the same labels, and arrays of the same
            dtypes and shapes in the same places.

    Raises:
        ValueError: if the file was not written by `save`, has the format of another version, is truncated, or
            does not fit `like`; the message names the difference.
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        header, arrays = _header(name, file.readline()), file.read()
    expected = _described(like)
    for what, found, wanted in (
        ("class", _class_name(header["class"]), _class_name(expected["class"])),
        *((what, header[what], expected[what]) for what in ("labels", "arrays")),
    ):
        if found != wanted:
            raise ValueError(
                f"{name} does not fit: its {what} {_difference(found, wanted)}. Load it into an operator "
                f"that is made like the one that was saved, a {header['class']}."
            )
    if len(arrays) != header["bytes"]:
        raise ValueError(
            f"{name} is damaged: it has {len(arrays)} bytes of arrays; expected {header['bytes']}. Save the "
            "operator again."
        )
    return cast("TreeT", eqx.tree_deserialise_leaves(io.BytesIO(arrays), like, filter_spec=_read))


def _replace(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically; a file that is replaced keeps its mode."""
    target = os.path.realpath(path)
    folder = tempfile.mkdtemp(prefix=f".{os.path.basename(target)}.", dir=os.path.dirname(target))
    try:
        new = os.path.join(folder, "new")
        with open(new, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(target):
            shutil.copymode(target, new)
        os.replace(new, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _header(name: str, line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        written = header["format"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(
            f"{name} is not a file of an operator; expected a file that mahsm.operators.save wrote."
        ) from None
    if written != _FORMAT:
        raise ValueError(
            f"{name} has format {written!r}, of mahsm {header.get('mahsm', '?')}; expected {_FORMAT}. Load "
            "it with that version and save it with this one, or update mahsm."
        )
    if missing := {"class", "labels", "arrays", "bytes"} - header.keys():
        raise ValueError(
            f"{name} is damaged: its first line lacks {sorted(missing)[0]!r}. Save the operator again."
        )
    return header


def _described(op: Any) -> dict[str, Any]:
    """Return the header of the arrays, in JSON types."""
    cls = cast("type[Any]", type(op))
    described = {
        "format": _FORMAT,
        "mahsm": version("mahsm"),
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "labels": [[where, list(labels)] for where, labels in _labels(op, "")],
        "arrays": [
            [jax.tree_util.keystr(path), str(leaf.dtype), list(leaf.shape)]
            for path, leaf in jax.tree_util.tree_leaves_with_path(op)
            if eqx.is_array(leaf)
        ],
    }
    return json.loads(json.dumps(described, default=_label))


def _label(label: Any) -> str:
    if isinstance(label, Enum):
        return f"{type(label).__name__}.{label.name}"
    raise TypeError(f"the label {shown(label)} cannot be saved; expected a string, a number or an enum.")


def _class_name(path: str) -> str:
    """Return a class name without its module, which differs if a script is imported instead of run."""
    return path.rpartition(".")[2]


def _labels(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the fields named `labels`, which give the rows of arrays their meaning, with their paths."""
    if isinstance(value, eqx.Module):
        for field in dataclasses.fields(value):
            entry = getattr(value, field.name)
            if field.name == "labels" and isinstance(entry, tuple | list):
                yield f"{where}.labels", cast("Sequence[Any]", entry)
            else:
                yield from _labels(entry, f"{where}.{field.name}")
    elif isinstance(value, dict):
        for key, entry in cast("dict[Any, Any]", value).items():
            yield from _labels(entry, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(cast("Sequence[Any]", value)):
            yield from _labels(entry, f"{where}[{index}]")


def _write(file: Any, leaf: Any) -> None:
    """Write a leaf if it is an array; random keys as their key data, and unusual dtypes as bytes."""
    if eqx.is_array(leaf):
        array = np.asarray(jax.random.key_data(leaf) if _is_random_key(leaf) else leaf)
        np.save(file, array if array.dtype.kind in "biufc" else np.frombuffer(array.tobytes(), np.uint8))


def _read(file: Any, like: Any) -> Any:
    if not eqx.is_array(like):
        return like
    stored: Any = np.load(file, allow_pickle=False)
    if _is_random_key(like):
        return jax.random.wrap_key_data(jnp.asarray(stored), impl=jax.random.key_impl(like))
    array = (
        stored
        if stored.dtype == like.dtype
        else np.frombuffer(stored.tobytes(), like.dtype).reshape(like.shape)
    )
    if isinstance(like, np.generic):
        return array[()]
    return jnp.asarray(array) if isinstance(like, jax.Array) else array


def _is_random_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _difference(found: Any, expected: Any) -> str:
    if isinstance(found, list) and isinstance(expected, list):
        pairs = zip_longest(cast("list[Any]", found), cast("list[Any]", expected))
        one, two = next((one, two) for one, two in pairs if one != two)
        return f"has {one}, and the operator has {two}"
    return f"is {found}, and the operator's is {expected}"
