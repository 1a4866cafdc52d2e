"""`VmapOptions`: the types of the options that other functions pass on to `vmap`."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

from langgraph.cache.base import BaseCache
from langgraph.types import RetryPolicy
from typing_extensions import TypedDict

from mahsm.edges._shared.reducer import StopWhen
from mahsm.edges._vmap.spec import OnError
from mahsm.limits import RateLimit
from mahsm.policies import BatchAPI, Budget, Hedge, Retry


class VmapOptions(TypedDict, total=False):
    """Options of `vmap` that say how calls are run, without its target, its batch and its `out_key`.

    A function that runs a `vmap` takes them as `**options: Unpack[VmapOptions]`.

    Example:
        >>> from mahsm import vmap
        >>> from mahsm.edges import VmapOptions
        >>> careful: VmapOptions = {"max_concurrency": 2, "timeout": 10.0}
        >>> vmap(len, batch_key="words", out_key="lengths", **careful).name
        'vmap_len'
    """

    inherit: bool | Sequence[str] | None
    name: str | None
    max_concurrency: int
    adaptive: bool | tuple[int, int]
    preserve_order: bool
    chunk_size: int | None
    batch_size: int | None
    retry: Retry | RetryPolicy | None
    timeout: float | None
    rate_limit: RateLimit | Mapping[str, Any] | str | None
    hedge: Hedge | None
    batch_api: BatchAPI | bool | None
    warm: int
    warm_key: Callable[[Any], Hashable] | None
    deadline: float | None
    budget: Budget | None
    stop_when: StopWhen | None
    min_success: int | float | None
    on_error: OnError
    errors_key: str | None
    dedupe_key: Callable[[Any], Hashable] | None
    cache: BaseCache[Any] | None
    progress: bool | Literal["items"]
