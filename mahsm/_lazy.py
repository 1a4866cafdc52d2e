"""Names that are imported when they are first used (PEP 562)."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any


def attach(module: str, homes: Mapping[str, str], name: str) -> Any:
    """Import `name` from its home and keep it in `module`. A home of the same name is a module, not a name in
    one.

    Raises:
        AttributeError: if `name` has no home.
    """
    if name not in homes:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    home = importlib.import_module(homes[name])
    value = home if homes[name] == f"{module}.{name}" else getattr(home, name)
    setattr(sys.modules[module], name, value)
    return value
