"""Type aliases that several modules share."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

State: TypeAlias = dict[str, Any]
Update: TypeAlias = Any
"""A target's result: usually a dict of state keys; an entry of `vmap` may be any value."""

Overlay: TypeAlias = Mapping[str, Any]
SyncCall: TypeAlias = Callable[[State], Update]
AsyncCall: TypeAlias = Callable[[State], Awaitable[Update]]
