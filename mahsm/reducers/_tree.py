"""`tree_reduce`: the merge of a long list, a few values per call."""

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
    """Merge values `arity` at a time, then merge the results, until one is left.

    `n` values take `ceil(log(n, arity))` levels, and a call gets at most `arity` values: a summary of a
    thousand documents never overflows a prompt. Each level is a `vmap`. `merge` is called even for
    a list of one value, so the result always comes from `merge`.

    Args:
        values: The values, in order.
        merge: The target that merges, as for `vmap`; its state has the values under `input_key`. In a
            `reduce_edge`, it sees the parent's state too.
        arity: Values per call, >= 2.
        input_key: State key of the values.
        result: Where the merged value is in the target's update: a key, or a function of the update; by
            default the whole update.
        **options: Options of the calls: `max_concurrency`, `rate_limit`, `retry`, `timeout`, `cache` and
            others of `mahsm.edges.VmapOptions`.

    Raises:
        ReducerError: if there are no values, or `arity` is not an integer >= 2.

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
        # A single result at the end was merged before; it goes to the next level unchanged.
        alone = not first and len(groups[-1]) == 1
        merged = edge.invoke({**state, _GROUPS: groups[:-1] if alone else groups})[_MERGED]
        values = [*merged, *groups[-1]] if alone else merged
        first = False
    return values[0]
