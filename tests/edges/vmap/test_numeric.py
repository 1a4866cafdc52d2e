"""`vmap(jit_edge(...))`: one computation for all items."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.cache.memory import InMemoryCache

from mahsm import is_item_error, jit_edge, reduce_edge, vmap
from mahsm.errors import EdgeError, JitError, MissingKeyError, StateError, TooFewSucceeded
from mahsm.policies import Budget, Hedge, Retry
from tests.helpers import MODES, graph_of, run


def over(target: Any, **options: Any) -> Any:
    return vmap(target, **{"batch_key": "xs", "out_key": "ys", "result": "y", **options})


def edge_of(fn: Any, *keys: str, **options: Any) -> Any:
    return jit_edge(fn, in_keys=list(keys or ("item",)), out_key="y", **options)


def items_of(xs: list[dict[str, Any]], target: Any, shared: Any = None, **options: Any) -> list[Any]:
    return over(target, item_to_state=lambda item: item, **options).invoke({"xs": xs, **(shared or {})})["ys"]


@pytest.mark.parametrize("mode", MODES)
def test_in_a_graph(mode: str) -> None:
    total = reduce_edge(input_key="ys", output_key="errors", reducer=sum)
    assert run(graph_of(over(edge_of(lambda item: item**2)), total), {"xs": [1, 2, 3]}, mode)["errors"] == 14


def test_it_is_one_computation() -> None:
    target = edge_of(lambda item: item * 2)
    assert over(target).invoke({"xs": [float(number) for number in range(1000)]})["ys"] == [
        number * 2.0 for number in range(1000)
    ]
    assert (target.stats.calls, target.stats.compiles) == (1, 1)
    over(target).invoke({"xs": [1.0] * 900})
    assert target.stats.compiles == 1  # both are padded to 1,024


def test_an_empty_batch_computes_nothing() -> None:
    target = edge_of(lambda item: item * 2)
    assert over(target).invoke({"xs": []}) == {"ys": []}
    assert target.stats.calls == 0


def test_the_batch_may_be_an_array() -> None:
    ys = over(edge_of(lambda item: item.sum())).invoke({"xs": np.arange(6.0).reshape(3, 2)})["ys"]
    assert ys == [1.0, 5.0, 9.0]


def test_keys_of_the_state_are_shared() -> None:
    target = edge_of(lambda item, by, on: item * by if on else item, "item", "by", "on")
    assert over(target).invoke({"xs": [1.0, 2.0], "by": 10.0, "on": True})["ys"] == [10.0, 20.0]
    with pytest.raises(MissingKeyError, match="no key 'by'"):
        over(target).invoke({"xs": [1.0], "on": True})


@pytest.mark.filterwarnings("ignore:jit_fn. compiled")  # for each kind, and that is what is tried here
def test_what_items_give_is_what_the_edge_gives_for_each() -> None:
    """Of mixed kinds, shapes and static values, in order, to 1e-6."""

    def fn(x: Any, mode: Any, by: Any) -> Any:
        y = jnp.tanh(jnp.asarray(x) * by)
        return {"value": y.sum() if mode == "sum" else y, "pair": (y, [y * 2])}

    target = edge_of(fn, "x", "mode", "by")
    rng = np.random.default_rng(0)
    kinds = [
        1.5,
        2,
        np.float32(3),
        True,
        [1.0, 2.0],
        (3, 4),
        rng.normal(size=2),
        rng.normal(size=3).astype(np.float32),
        [[1.0], [2.0]],
    ]
    items = [
        {"x": kinds[number % len(kinds)], "mode": ("sum", "each", None)[number % 3]} for number in range(100)
    ]
    found = items_of(items, target, {"by": 0.5}, result=None)
    for item, one in zip(items, found, strict=True):
        alone = target.invoke({**item, "by": 0.5})["y"]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), one["y"], alone)
        assert jax.tree.structure(one["y"]) == jax.tree.structure(alone)
        assert [type(leaf) for leaf in jax.tree.leaves(one["y"])] == [
            type(leaf) for leaf in jax.tree.leaves(alone)
        ]


numbers = st.floats(-100, 100, width=32)
values = st.one_of(
    numbers,
    st.integers(-100, 100),
    st.booleans(),
    st.lists(numbers, max_size=3),
    st.none(),
    st.sampled_from("ab"),
)


@pytest.mark.filterwarnings("ignore:jit_lambda. compiled")
@settings(deadline=None, max_examples=30)
@given(st.lists(values, max_size=12))
def test_any_mix_of_values_keeps_its_order(xs: list[Any]) -> None:
    target = PROPERTY
    ys = over(target).invoke({"xs": xs})["ys"]
    for x, y in zip(xs, ys, strict=True):
        np.testing.assert_allclose(y, target.invoke({"item": x})["y"], rtol=1e-6, atol=1e-5)


PROPERTY = edge_of(
    lambda item: jnp.asarray(item) * 2.0 if isinstance(item, jax.Array) else jnp.zeros(1) + len(repr(item))
)


def test_several_out_keys_in_any_order() -> None:
    target = jit_edge(lambda item: (item, item * 2), in_keys=["item"], out_key=["z", "a"])
    ys = over(target, result=None).invoke({"xs": [1.0, 2.0]})["ys"]
    assert ys == [{"z": 1.0, "a": 2.0}, {"z": 2.0, "a": 4.0}]
    assert target.invoke({"item": 1.0}) == {"z": 1.0, "a": 2.0}


def test_groups_by_static_values_and_shapes() -> None:
    target = edge_of(lambda x, mode: x * (2 if mode == "double" else 1), "x", "mode")
    items = [
        {"x": np.ones(1 + number % 2), "mode": ("double", "same")[number // 2 % 2]} for number in range(40)
    ]
    found = items_of(items, target)
    assert (target.stats.calls, target.stats.compiles) == (4, 4)
    assert [y.tolist() for y in found[:4]] == [[2.0], [2.0, 2.0], [1.0], [1.0, 1.0]]


def test_items_with_different_keys() -> None:
    target = edge_of(lambda x, by: x * by, "x", "by")
    assert items_of([{"x": 1.0}, {"x": 1.0, "by": 5.0}, {"x": 2.0}], target, {"by": 10.0}) == [
        10.0,
        5.0,
        20.0,
    ]


def test_items_that_lack_a_key_fail_alone() -> None:
    target = edge_of(lambda x, by: x * by, "x", "by")
    ys = items_of([{"x": 1.0, "by": 2.0}, {"x": 1.0}], target, on_error="collect")
    assert (ys[0], is_item_error(ys[1])) == (2.0, True)


def test_only_static_values_differ() -> None:
    target = edge_of(lambda x, mode: x + len(mode), "x", "mode")
    assert items_of([{"mode": "a"}, {"mode": "aaa"}, {"mode": "a"}], target, {"x": 1.0}) == [2.0, 4.0, 2.0]


def test_static_keys_in_items() -> None:
    target = edge_of(lambda x, k: jax.lax.top_k(x, k)[0], "x", "k", static_keys=["k"])
    found = items_of([{"k": 1}, {"k": 2}], target, {"x": [3.0, 1.0, 2.0]})
    assert [y.tolist() for y in found] == [[3.0], [3.0, 2.0]]


def test_ragged_items() -> None:
    target = edge_of(
        lambda x, by, mask: {"sum": jnp.where(mask, x, 0).sum() * by, "x": x + by}, "x", "by", ragged=["x"]
    )
    lengths = [3, 9, 0, 20, 5, 300]
    found = items_of([{"x": np.ones(length)} for length in lengths], target, {"by": 2.0})
    assert [y["sum"] for y in found] == [2.0 * length for length in lengths]
    assert [y["x"].shape for y in found] == [(length,) for length in lengths]
    compiles = target.stats.compiles
    items_of([{"x": np.ones(length + 1)} for length in lengths], target, {"by": 3.0})
    assert target.stats.compiles == compiles, "the lengths fall into the same buckets"
    for leak in (lambda x, mask: x.sum() + x[-1] + 1, lambda x, mask: jnp.where(mask, x, 0.0).mean()):
        with pytest.raises(JitError, match="changes with the padding"):
            items_of([{"x": np.ones(3)}], edge_of(leak, "x", ragged=["x"]))


def test_a_ragged_key_that_all_items_share() -> None:
    target = edge_of(
        lambda q, docs, mask: jnp.where(mask, docs @ q, -jnp.inf).argmax(), "q", "docs", ragged=["docs"]
    )
    docs = np.eye(5)
    assert items_of([{"q": row} for row in np.eye(5)[::-1]], target, {"docs": docs}) == [4, 3, 2, 1, 0]


def test_a_module_as_the_function() -> None:
    import equinox as eqx

    linear = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    target = edge_of(linear)
    rows = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    np.testing.assert_allclose(
        np.array(over(target).invoke({"xs": rows})["ys"]), rows @ linear.weight.T + linear.bias, rtol=1e-5
    )


def test_each_item_has_a_key_of_its_own_that_does_not_depend_on_how_many_there_are() -> None:
    target = edge_of(lambda item, *, key: item + jax.random.normal(key), seed_key="seed")
    many = over(target).invoke({"xs": [0.0] * 1000, "seed": 7})["ys"]
    few = over(target).invoke({"xs": [0.0] * 5, "seed": 7})["ys"]
    assert len(set(many)) == 1000
    assert many[:5] == few
    assert over(target).invoke({"xs": [0.0] * 5, "seed": 8})["ys"] != few


def test_draws_without_any_key_of_the_items() -> None:
    target = edge_of(lambda loc, *, key: loc + jax.random.normal(key), "loc", seed_key="seed")
    assert len(set(over(target).invoke({"xs": [None] * 10, "loc": 0.0, "seed": 1})["ys"])) == 10


def test_an_edge_alone_draws_as_for_the_first_item() -> None:
    target = edge_of(lambda item, *, key: item + jax.random.normal(key), seed_key="seed")
    first, second = over(target).invoke({"xs": [0.0, 0.0], "seed": 7})["ys"]
    assert target.invoke({"item": 0.0, "seed": 7}) == {"y": first}
    assert first != second


def test_seeds_of_items() -> None:
    target = (
        edge_of(lambda *, key: jax.random.normal(key), seed_key="seed")
        if False
        else edge_of(lambda x, *, key: x + jax.random.normal(key), "x", seed_key="seed")
    )
    one, two, three = items_of([{"seed": 1}, {"seed": 1}, {"seed": 2}], target, {"x": 0.0})
    assert len({one, two, three}) == 3


def test_a_random_key_that_all_items_would_share_is_refused() -> None:
    target = edge_of(lambda item, key: item + jax.random.normal(key), "item", "noise")
    with pytest.raises(
        StateError,
        match=r"state\['noise'\] is a random key, which all items would share.*seed_key=",
    ):
        over(target).invoke({"xs": [1.0, 2.0], "noise": jax.random.key(0)})
    keys = [{"item": 0.0, "noise": key} for key in jax.random.split(jax.random.key(0), 3)]
    assert len(set(items_of(keys, target))) == 3


# Failures.


def test_the_first_failure_comes_out() -> None:
    with pytest.raises(StateError, match=r"state\['item'\] is <object") as raised:
        over(edge_of(lambda item: item)).invoke({"xs": [1.0, object(), object()]})
    assert "mahsm: vmap_jit_lambda, item 1 of 3" in raised.value.__notes__


def test_failures_are_collected_item_by_item() -> None:
    edge = over(edge_of(lambda item: item * 2.0), on_error="collect", errors_key="errors")
    found = edge.invoke({"xs": [1.0, object(), 2**40, 2.0, "text"]})
    assert [is_item_error(y) for y in found["ys"]] == [False, True, True, False, True]
    assert [error["index"] for error in found["errors"]] == [1, 2, 4]
    assert found["ys"][3] == 4.0


def test_failures_are_dropped_and_counted() -> None:
    xs = [1.0, object(), 2.0]
    assert over(edge_of(lambda item: item), on_error="drop").invoke({"xs": xs})["ys"] == [1.0, 2.0]
    with pytest.raises(TooFewSucceeded, match="1 of 3 items failed"):
        over(edge_of(lambda item: item), on_error="drop", min_success=3).invoke({"xs": xs})
    with pytest.raises(TooFewSucceeded, match="min_success=4 cannot be reached"):
        over(edge_of(lambda item: item), on_error="drop", min_success=4).invoke({"xs": xs})


def test_an_item_whose_state_cannot_be_made() -> None:
    edge = over(edge_of(lambda x: x, "x"), item_to_state=lambda item: {"x": 1 / item}, on_error="collect")
    assert [is_item_error(y) for y in edge.invoke({"xs": [1.0, 0.0]})["ys"]] == [False, True]


def test_a_function_of_an_item_that_ends_an_iterator_is_a_failure_like_others() -> None:
    def state_of(item: float) -> dict[str, float]:
        return {"x": item if item else next(iter(()))}

    edge = over(edge_of(lambda x: x, "x"), item_to_state=state_of, on_error="collect", errors_key="errors")
    found = edge.invoke({"xs": [1.0, 0.0, 3.0]})
    assert found["ys"][::2] == [1.0, 3.0]
    assert [error["index"] for error in found["errors"]] == [1]


@pytest.mark.parametrize(
    ("result", "entries"),
    [
        ("y", [1.0, "error", 2.0, "error", 3.0]),
        (None, [{"y": 1.0}, "error", {"y": 2.0}, "error", {"y": 3.0}]),
        (lambda update: 1 / (update["y"] - 2), [-1.0, "error", "error", "error", 1.0]),
    ],
    ids=["a key", "all", "a function"],
)
def test_what_fails_at_any_point_leaves_the_others_in_their_places(result: Any, entries: list[Any]) -> None:
    def state_of(item: Any) -> dict[str, Any]:
        return {"x": 1 / 0 if item == 4 else item}

    edge = over(
        edge_of(lambda x: x, "x"),
        item_to_state=state_of,
        result=result,
        on_error="collect",
        errors_key="errors",
    )
    found = edge.invoke({"xs": [1.0, object(), 2.0, 4, 3.0]})
    failed = [error["index"] for error in found["errors"]]
    assert failed == [place for place, entry in enumerate(entries) if entry == "error"]
    assert ["error" if place in failed else entry for place, entry in enumerate(found["ys"])] == entries


def test_a_function_that_cannot_be_traced_says_what_to_change() -> None:
    target = edge_of(lambda x, k: x[:k], "x", "k")
    with pytest.raises(JitError, match=r"static_keys=\['k'\]"):
        items_of([{"x": np.ones(3), "k": 1}, {"x": np.ones(3), "k": 2}], target)


def test_items_that_have_no_key_that_is_read() -> None:
    with pytest.raises(
        EdgeError,
        match=r"reads 'x', and the items have 'item', so all results would be the same.*item_to_state=",
    ):
        over(edge_of(lambda x: x, "x")).invoke({"xs": [1.0], "x": 2.0})


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 1.0},
        {"retry": Retry()},
        {"hedge": Hedge()},
        {"budget": Budget(usd=1)},
        {"deadline": 1.0},
        {"dedupe_key": lambda item: item},
        {"chunk_size": 1},
        {"adaptive": True},
        {"stop_when": lambda entries: False},
        {"cache": InMemoryCache()},
        {"rate_limit": "no-calls"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_holds_for_calls_is_refused(options: Any) -> None:
    with pytest.raises(
        EdgeError,
        match=rf"{next(iter(options))}=.* has no effect, since all items of a jit_edge are one computation",
    ):
        over(edge_of(lambda item: item), **options)


def test_progress_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    edge = over(edge_of(lambda item: item), name="numbers", progress=True)
    events = list(graph_of(edge).stream({"xs": [1.0, 2.0]}, stream_mode="custom"))
    assert events == [{"edge": "numbers", "done": 2, "total": 2, "errors": 0, "tokens": 0, "usd": 0.0}]
    assert "numbers" in capsys.readouterr().err


def test_other_outputs() -> None:
    assert over(edge_of(lambda item: item * 2, output="python")).invoke({"xs": np.ones((2, 2))})["ys"] == [
        [2.0, 2.0],
        [2.0, 2.0],
    ]
    ys = over(edge_of(lambda item: item * 2, output="jax")).invoke({"xs": [1.0, 2.0]})["ys"]
    assert all(isinstance(y, jax.Array) for y in ys)


def test_in_64_bits() -> None:
    assert over(edge_of(lambda item: item * 2, x64=True)).invoke({"xs": [0.1, 2**40 + 0.0]})["ys"] == [
        0.2,
        2.0**41,
    ]
    assert over(edge_of(lambda item: item + 1, x64=True)).invoke({"xs": [2**40]})["ys"] == [2**40 + 1]


def test_equal_lists_of_enums_and_booleans() -> None:
    target = edge_of(lambda item: jnp.asarray(item).sum())
    assert over(target).invoke({"xs": [[True, False], [True, True]]})["ys"] == [1, 2]


def test_odd_batches_are_taken_apart_one_by_one() -> None:
    target = edge_of(lambda item: [len(item) * jnp.ones(1), {"sum": sum(row.sum() for row in item)}])
    xs = [[[1.0], [1.0]], [[1.0]], [[1.0, 2.0], [3.0]]]
    assert [(y[0].tolist(), y[1]["sum"]) for y in over(target).invoke({"xs": xs})["ys"]] == [
        ([2.0], 2.0),
        ([1.0], 1.0),
        ([2.0], 6.0),
    ]
    complexes = over(edge_of(lambda item: item * 2)).invoke({"xs": [1j, 2j]})["ys"]
    assert complexes == [2j, 4j]
    zeros = over(edge_of(lambda item: item + 1)).invoke({"xs": [np.array(1.0), np.array(2.0)]})["ys"]
    assert zeros == [2.0, 3.0]
    mixed = over(edge_of(lambda item: item), on_error="collect").invoke({"xs": [1, 2**40]})["ys"]
    assert [is_item_error(y) for y in mixed] == [False, True]


def test_a_function_that_gives_nothing() -> None:
    assert over(edge_of(lambda item: None)).invoke({"xs": [1.0, 2.0]})["ys"] == [None, None]
    assert over(edge_of(lambda item: {"a": [item, None]})).invoke({"xs": [1.0]})["ys"] == [{"a": [1.0, None]}]
