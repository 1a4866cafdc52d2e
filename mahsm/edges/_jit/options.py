"""`JitOptions`: the types of the arguments of `JitEdge.with_`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from typing_extensions import TypedDict

from mahsm._numeric import Output


class JitOptions(TypedDict, total=False):
    """Arguments of `jit_edge`, and `keep` of `fuse`."""

    fn: Callable[..., Any]
    in_keys: Sequence[str] | Mapping[str, str]
    out_key: str | Sequence[str]
    keep: Sequence[str] | None
    name: str | None
    static_keys: Sequence[str]
    ragged: Sequence[str]
    seed_key: str | None
    device: Any
    shard: str | None
    x64: bool
    output: Output
