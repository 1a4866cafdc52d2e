"""Names that are imported when they are first used (PEP 562)."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any


def attach(module: str, homes: Mapping[str, str], name: str) -> Any:
    """Import `name` from its home, and keep it in `module`.

    Args:
        module: The name of the module that has `name` as an attribute.
        homes: For each attribute, the module that defines it; a submodule of `module` is its own home.
        name: The attribute.

    Raises:
        AttributeError: if `name` is not in `homes`.
    """
    if name not in homes:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    home = importlib.import_module(homes[name])
    value = home if homes[name] == f"{module}.{name}" else getattr(home, name)
    setattr(sys.modules[module], name, value)
    return value
