"""Stand-in."""

import os
from collections.abc import Sequence
from typing import Any


def config(key: str, default: Any = None) -> Any:
    return os.environ.get("MAHSM_MODEL", default) if key == "models.default" else default


def credential(provider: str, variables: Sequence[str] = ()) -> str | None:
    return next((value for name in variables if (value := os.environ.get(name))), None)


def where(provider: str, variables: Sequence[str] = ()) -> str:
    return f"Set {' or '.join(variables)}."
