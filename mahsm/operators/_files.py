"""Operators in files: a line of JSON that says what the arrays belong to, and the arrays, as Equinox writes
them.
"""

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
    """Write the arrays of an operator to a file, after a line that says what they belong to.

    Nothing else of the operator is in the file: no model, prompt or key. The file is replaced when all is
    written; if something fails before that, it stays as it was.

    Args:
        path: The file, which is replaced.
        op: The operator, or any other tree.

    Raises:
        TypeError: for labels that JSON does not have, and that are no enums.

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
    """An operator with the arrays of a file.

    Args:
        path: A file that `save` has written.
        like: An operator of a class of the same name, whatever its module, with the same labels, and with
            arrays of the same shapes in the same places.

    Raises:
        ValueError: for a file that `save` has not written, that another version has, that is cut off, or that
            does not fit; it says in what.
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
    """Write a file that is there as a whole or not at all; one that was there keeps its mode."""
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
            f"{name} is no file of an operator; expected one that mahsm.operators.save wrote."
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
    """What the arrays belong to, as JSON has it."""
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
    """The name of a class, whose module is another one when a script is imported."""
    return path.rpartition(".")[2]


def _labels(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """What the rows of arrays mean: the fields named `labels`, here and in operators inside."""
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
    """Write an array, and nothing else; keys for random numbers as their numbers, and rare dtypes as their
    bytes.
    """
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
