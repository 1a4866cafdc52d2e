"""`tree_reduce`: merge a long list a few at a time."""

from collections.abc import Callable, Sequence
from typing import Any, overload

from typing_extensions import Unpack

from mahsm._common import State, shown
from mahsm.edges import Edge, VmapOptions, vmap
from mahsm.errors import ReducerError
from mahsm.reducers._values import check_some

Reduce = Callable[[Sequence[Any], State], Any]


@overload
def tree_reduce(
    values: Sequence[Any],
    /,
    *,
    merge: object,
    arity: int = 8,
    input_key: str = "items",
    result: str | Callable[[Any], Any] | None = None,
    **options: Unpack[VmapOptions],
) -> Any: ...
@overload
def tree_reduce(
    *,
    merge: object,
    arity: int = 8,
    input_key: str = "items",
    result: str | Callable[[Any], Any] | None = None,
    **options: Unpack[VmapOptions],
) -> Reduce: ...
def tree_reduce(
    values: Sequence[Any] | None = None,
    /,
    *,
    merge: object,
    arity: int = 8,
    input_key: str = "items",
    result: str | Callable[[Any], Any] | None = None,
    **options: Unpack[VmapOptions],
) -> Any:
    """Merge values `arity` at a time, then what came of that, and so on until one is left.

    `n` values take `ceil(log(n, arity))` levels, and no call gets more than `arity` of them: a summary of a
    thousand documents never overflows a prompt. The calls of a level run as a `vmap` does. Every value goes
    through `merge`, so what comes out is always what that gives.

    Args:
        values: What to merge, in order.
        merge: What merges: a target as a `vmap` takes, of a state that has the values under `input_key`; in a
            `reduce_edge`, it sees the parent's state too.
        arity: Values per call, >= 2.
        input_key: State key of the values.
        result: What of the target's update is the merged value: one of its keys, or a function of it; by
            default all.
        **options: How its calls are run: `max_concurrency`, `rate_limit`, `retry`, `timeout`, `cache` and
            what else `mahsm.edges.VmapOptions` lists.

    Raises:
        ReducerError: if there are no values, or `arity` is too small.

    Example:
        >>> tree_reduce(range(1, 101), merge=lambda state: sum(state["items"]), arity=4)
        5050
    """
    if isinstance(arity, bool) or not isinstance(arity, int) or arity < 2:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ReducerError(f"tree_reduce: arity={shown(arity)}; expected an integer >= 2.")
    edge = vmap(
        merge,
        batch_key=_GROUPS,
        out_key=_MERGED,
        item_to_state=lambda group: {input_key: group},
        result=result,
        **options,
    )

    def reduce(values: Sequence[Any], state: State) -> Any:
        return _reduce(edge, list(values), state, arity)

    return reduce if values is None else reduce(values, {})


_GROUPS, _MERGED = "tree_groups", "tree_merged"


def _reduce(edge: Edge, values: list[Any], state: State, arity: int) -> Any:
    check_some("tree_reduce", values)
    first = True
    while first or len(values) > 1:
        groups = [values[start : start + arity] for start in range(0, len(values), arity)]
        alone = not first and len(groups[-1]) == 1  # merged already, and nothing to merge it with yet
        merged = edge.invoke({**state, _GROUPS: groups[:-1] if alone else groups})[_MERGED]
        values = [*merged, *groups[-1]] if alone else merged
        first = False
    return values[0]
