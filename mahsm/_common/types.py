"""The types that several modules share."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

State: TypeAlias = dict[str, Any]
Update: TypeAlias = Any
"""What a target gives back: mostly a dict of state keys, but an entry of `vmap` may be any value."""

Overlay: TypeAlias = Mapping[str, Any]
SyncCall: TypeAlias = Callable[[State], Update]
AsyncCall: TypeAlias = Callable[[State], Awaitable[Update]]
