"""DSPy modules in the fields of operators: finding and replacing them."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import equinox as eqx


def modules_in(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the DSPy modules in a value, with their paths."""
    # A value that contains a DSPy module has imported DSPy.
    if "dspy" not in sys.modules:
        return
    if _is_module(value):
        yield where, value
    else:
        for name, entry in _entries(value):
            yield from modules_in(entry, f"{where}{name}")


def with_modules(value: Any, modules: Mapping[str, Any], where: str = "") -> Any:
    """Return a value with its DSPy modules replaced, by path; parts without modules are not copied."""
    if _is_module(value):
        return modules[where]
    entries = _entries(value)
    made = [with_modules(entry, modules, f"{where}{name}") for name, entry in entries]
    if all(new is entry for new, (_, entry) in zip(made, entries, strict=True)):
        return value
    if isinstance(value, eqx.Module):
        copy: Any = object.__new__(type(value))
        for name, entry in {
            **vars(value),
            **dict(zip((name[1:] for name, _ in entries), made, strict=True)),
        }.items():
            object.__setattr__(copy, name, entry)
        return copy
    return (
        dict(zip(cast("dict[Any, Any]", value), made, strict=True))
        if isinstance(value, dict)
        else type(value)(made)
    )


def _entries(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, eqx.Module):
        # `vars`, since Equinox wraps methods when an attribute is read.
        values = vars(value)
        return [
            (f".{field.name}", values[field.name])
            for field in dataclasses.fields(value)
            if field.name in values
        ]
    if isinstance(value, dict):
        return [(f"[{key!r}]", entry) for key, entry in cast("dict[Any, Any]", value).items()]
    if type(value) in (list, tuple):
        return [(f"[{index}]", entry) for index, entry in enumerate(cast("Sequence[Any]", value))]
    return []


def _is_module(value: Any) -> bool:
    dspy: Any = sys.modules.get("dspy")
    return dspy is not None and isinstance(value, dspy.Module)
