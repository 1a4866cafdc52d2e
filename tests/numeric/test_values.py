"""What of a value is dynamic and what is static, value by value."""

import enum
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import BaseModel

from mahsm import jit_edge, vmap
from mahsm.errors import StateError


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(NamedTuple):
    x: Any
    y: Any


class Scale(eqx.Module):
    by: Any
    times: int = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        return x * self.by * self.times


@dataclass(frozen=True)
class Options:
    deep: Any


def seen(*values: Any, **options: Any) -> tuple[list[Any], int]:
    """What a function gets for each of the values, and how often it was compiled for them."""
    got: list[Any] = []
    edge = jit_edge(
        lambda value: (got.append(value), jnp.zeros(()))[1], in_keys=["value"], out_key="y", **options
    )
    for value in values:
        edge.invoke({"value": value})
    return got, edge.stats.compiles


DYNAMIC: dict[str, list[Any]] = {
    "float": [1.0, 2.0, -0.0],
    "int": [1, 2, -3],
    "complex": [1j, 2j],
    "0-d array": [np.array(1.0), np.array(2.0)],
    "NumPy float32": [np.float32(1), np.float32(2)],
    "NumPy float64": [np.float64(1), np.float64(2)],
    "NumPy int64": [np.int64(1), np.int64(2)],
    "NumPy bool": [np.bool_(True), np.bool_(False)],
    "array": [np.array([1.0, 2.0]), np.array([3.0, 4.0])],
    "bool array": [np.array([True, False]), np.array([True, True])],
    "JAX array": [jnp.ones(2), jnp.zeros(2)],
    "list of floats": [[1.0, 2.0], [3.0, 4.0]],
    "list of ints": [[1, 2], [3, 4]],
    "list of booleans": [[True, False], [True, True]],
    "tuple of numbers": [(1.0, 2.0), (3.0, 4.0)],
    "list of lists": [[[1.0], [2.0]], [[3.0], [4.0]]],
    "list of arrays": [[np.ones(2), np.ones(2)], [np.zeros(2), np.ones(2)]],
    "list of JAX arrays": [[jnp.ones(2), jnp.ones(2)], [jnp.zeros(2), jnp.ones(2)]],
    "empty list": [[], []],
    "float16": [np.float16(1), np.float16(2)],
    "bfloat16": [jnp.ones(2, jnp.bfloat16), np.asarray(jnp.zeros(2, jnp.bfloat16))],
    "big endian": [np.array([1.0], ">f4"), np.array([2.0], ">f4")],
    "array subclass": [np.ma.array([1.0]), np.ma.array([2.0])],
}

STATIC: dict[str, list[Any]] = {
    "bool": [True, False],
    "str": ["a", "b"],
    "bytes": [b"a", b"b"],
    "None": [None],
    "enum": [Color.RED, Color.BLUE],
    "int enum": [Level.LOW, Level.HIGH],
}


@pytest.mark.parametrize("values", DYNAMIC.values(), ids=DYNAMIC)
def test_dynamic_values_share_a_compilation(values: list[Any]) -> None:
    got, compiles = seen(*values)
    assert compiles == 1
    assert all(isinstance(value, jax.core.Tracer) for value in got)


@pytest.mark.parametrize("values", STATIC.values(), ids=STATIC)
def test_static_values_have_a_compilation_each(values: list[Any]) -> None:
    got, compiles = seen(*values, *values)
    assert compiles == len(values)
    assert set(got) == set(values)


def test_one_true_and_a_float_never_share_a_trace() -> None:
    edge = jit_edge(lambda k: jnp.zeros(()) + len(repr(k)), in_keys=["k"], out_key="y", static_keys=["k"])
    values = [
        1,
        True,
        1.0,
        (1,),
        (True,),
        (1.0,),
        [1],
        {"a": 1},
        {"a": True},
        {"a": (1, (1,))},
        {"a": (1, (True,))},
    ]
    values += [Options(1), Options(True), {1}, {True}, frozenset([1])]
    assert [edge.invoke({"k": value})["y"] for value in values] == [len(repr(value)) for value in values]
    assert edge.stats.compiles == len(values)


def test_static_floats_that_are_equal_and_differ() -> None:
    edge = jit_edge(lambda k: jnp.asarray(np.copysign(1.0, k)), in_keys=["k"], out_key="y", static_keys=["k"])
    assert [edge.invoke({"k": value})["y"] for value in (0.0, -0.0, float("nan"), float("nan"))] == [
        1.0,
        -1.0,
        1.0,
        1.0,
    ]
    assert edge.stats.compiles == 3


def test_a_static_array() -> None:
    edge = jit_edge(lambda k: jnp.zeros(()) + k.sum(), in_keys=["k"], out_key="y", static_keys=["k"])
    assert [edge.invoke({"k": np.array(value)})["y"] for value in ([1, 2], [1, 2], [1, 3], [1.0, 2.0])] == [
        3,
        3,
        4,
        3,
    ]
    assert edge.stats.compiles == 3


def test_what_dynamic_values_are_converted_to() -> None:
    dtypes = {
        "int": jnp.int32,
        "float": jnp.float32,
        "NumPy float64": jnp.float32,
        "NumPy int64": jnp.int32,
        "list of ints": jnp.int32,
        "list of booleans": jnp.bool_,
        "empty list": jnp.float32,
        "float16": jnp.float16,
        "bfloat16": jnp.bfloat16,
    }
    for name, dtype in dtypes.items():
        got, _ = seen(DYNAMIC[name][0])
        assert got[0].dtype == dtype, name


def test_numbers_of_python_are_weak() -> None:
    edge = jit_edge(lambda x, by: x * by, in_keys=["x", "by"], out_key="y", output="jax")
    assert edge.invoke({"x": jnp.ones(2, jnp.bfloat16), "by": 2.0})["y"].dtype == jnp.bfloat16


def test_containers_are_taken_apart() -> None:
    value = {
        "weights": [1.0, 2.0],
        "label": "a",
        "deep": {"on": True, "k": 3, "rows": [[1], [2, 3]]},
        "no": None,
    }
    got, compiles = seen(value, {**value, "weights": [5.0, 6.0]}, {**value, "label": "b"})
    assert compiles == 2
    assert got[0]["weights"].shape == (2,)
    assert (got[0]["label"], got[0]["deep"]["on"], got[0]["no"]) == ("a", True, None)
    assert [row.shape for row in got[0]["deep"]["rows"]] == [(1,), (2,)]


def digits(value: Any) -> Any:
    return jnp.asarray(sum(entry * 10**place for place, entry in enumerate(value.values())))


@pytest.mark.parametrize("static_keys", [(), ("value",)])
def test_a_dict_keeps_its_order(static_keys: Any) -> None:
    edge = jit_edge(digits, in_keys=["value"], out_key="y", static_keys=static_keys)
    assert [edge.invoke({"value": value})["y"] for value in ({"a": 1, "b": 2}, {"b": 2, "a": 1})] == [21, 12]
    assert edge.stats.compiles == 2
    mixed = vmap(edge, batch_key="xs", out_key="ys", item_to_state=lambda value: {"value": value}, result="y")
    assert mixed.invoke({"xs": [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 3, 1: 4}]})["ys"] == [21, 12, 43]


class Frozen(BaseModel, frozen=True):
    deep: Any


class Sign(float):
    pass


@pytest.mark.parametrize(
    "values",
    [
        [Frozen(deep=1), Frozen(deep=True), Frozen(deep=1.0), Frozen(deep=(0.0,)), Frozen(deep=(-0.0,))],
        [{0.0: "a"}, {-0.0: "a"}, {0: "a"}, {False: "a"}],
        [Decimal("0.0"), Decimal("-0.0"), Decimal("0")],
        [Sign(0.0), Sign(-0.0), 0j, complex(0.0, -0.0)],
        [datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 13, tzinfo=timezone(timedelta(hours=1)))],
    ],
    ids=["models", "keys", "decimals", "zeros", "times"],
)
def test_equal_static_values_that_differ_never_share_a_compilation(values: list[Any]) -> None:
    got, compiles = seen(*values, *values, static_keys=["value"])
    assert compiles == len(values)
    assert list(dict.fromkeys(map(repr, got))) == list(map(repr, values))


def test_keys_of_dynamic_dicts_that_are_equal_and_differ() -> None:
    values = [{0.0: 1.0}, {-0.0: 1.0}, {0: 1.0}, {False: 1.0}]
    got, compiles = seen(*values)
    assert compiles == 4
    assert [repr(next(iter(each))) for each in got[::2]] == ["0.0", "-0.0", "0", "False"]


def test_lists_of_texts_and_of_mixed_values() -> None:
    got, compiles = seen(["a", 1.0], ["a", 2.0], ["b", 2.0], [1, "a"], [Level.LOW, 2])
    assert compiles == 4
    assert got[0][0] == "a"


def test_modules_and_named_tuples_are_taken_apart() -> None:
    edge = jit_edge(lambda value: value.by * value.times, in_keys=["value"], out_key="y")
    modules = [
        Scale(np.float32(2.0), 1),
        Scale(np.float32(3.0), 1),
        Scale(2.0, 1),
        Scale(2.0, True),
        Scale(2.0, 2),
    ]
    assert [edge.invoke({"value": module})["y"] for module in modules] == [2.0, 3.0, 2.0, 2.0, 4.0]
    assert edge.stats.compiles == 4  # arrays of one shape; a number; True is not 1; 2
    got, compiles = seen(Point(1.0, "a"), Point(2.0, "a"))
    assert (compiles, type(got[0]), got[0].y) == (1, Point, "a")


def test_a_module_with_a_function_in_it() -> None:
    mlp = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    edge = jit_edge(lambda mlp, x: mlp(x), in_keys=["mlp", "x"], out_key="y")
    assert edge.invoke({"mlp": mlp, "x": [1.0, 2.0]})["y"] == pytest.approx(mlp(jnp.array([1.0, 2.0])))


def test_an_ordered_dict_and_a_random_key() -> None:
    got, compiles = seen(OrderedDict(a=1.0), OrderedDict(a=2.0))
    assert (compiles, type(got[0])) == (1, OrderedDict)
    assert seen(jax.random.key(0), jax.random.key(1))[1] == 1
    assert seen([jax.random.key(0), jax.random.key(1)])[1] == 1


OPAQUE: dict[str, tuple[Any, str]] = {
    "object": (object(), r"state\['value'\] is <object .* of type object"),
    "function": (len, "builtin_function_or_method"),
    "dataclass": (Options(1), "of type Options"),
    "range": (range(3), "of type range"),
    "set": ({1}, "of type set"),
    "in a dict": ({"a": {"b": object()}}, r"state\['value'\]\['a'\]\['b'\]"),
    "in a list": ([1.0, object()], r"state\['value'\]\[1\]"),
    "in a module": (Scale(object(), 1), r"state\['value'\]\.by"),
    "texts": (np.array(["a"]), "dtype <U1.*expected numbers or booleans"),
    "objects": (np.array([None]), "dtype object"),
    "dates": (np.array(["2026-01-01"], "datetime64[D]"), "datetime64"),
}


@pytest.mark.parametrize(("value", "message"), OPAQUE.values(), ids=OPAQUE)
def test_what_cannot_be_computed_with_is_an_error_that_names_it(value: Any, message: str) -> None:
    with pytest.raises(StateError, match=message):
        seen(value)


def test_opaque_values_may_be_static() -> None:
    _, compiles = seen(Options(1), Options(1), Options(2), static_keys=["value"])
    assert compiles == 2
    with pytest.raises(StateError, match=r"cannot be hashed.*Make it a tuple"):
        seen(np.array, [bytearray()], static_keys=["value"])


@pytest.mark.parametrize(
    "value",
    [
        2**40 + 7,
        np.array([2**40 + 7]),
        [1, 2**40 + 7],
        {"a": [2**40]},
        np.int64(2**31),
        np.uint64(2**32),
        -(2**31) - 1,
        [2**70],
    ],
    ids=repr,
)
def test_ints_that_do_not_fit_are_an_error_that_names_the_key(value: Any) -> None:
    with pytest.raises(StateError, match=r"state\['value'\].*does not fit u?int32"):
        seen(value)


def test_ints_that_fit() -> None:
    edge = jit_edge(lambda value: value, in_keys=["value"], out_key="y")
    for value in (2**31 - 1, -(2**31), np.int64(2**31 - 1), np.uint64(2**32 - 1)):
        assert edge.invoke({"value": value})["y"] == value
    assert edge.invoke({"value": np.array([], np.int64)})["y"].shape == (0,)


@pytest.mark.parametrize("value", [1e300, np.array([1.0, -1e39]), [1e300], np.float64(1e39)], ids=repr)
def test_floats_that_do_not_fit_are_an_error(value: Any) -> None:
    with pytest.raises(StateError, match=r"state\['value'\].*does not fit float32.*x64=True"):
        seen(value)


def test_infinity_and_nan_fit() -> None:
    edge = jit_edge(lambda value: value, in_keys=["value"], out_key="y")
    assert edge.invoke({"value": float("inf")})["y"] == float("inf")
    assert edge.invoke({"value": [float("-inf"), float("nan")]})["y"][0] == float("-inf")


def test_wide_numbers_fit_with_x64() -> None:
    edge = jit_edge(lambda value: value, in_keys=["value"], out_key="y", x64=True)
    assert edge.invoke({"value": 2**40 + 7})["y"] == 2**40 + 7
    assert edge.invoke({"value": np.array([2**40 + 7])})["y"].tolist() == [2**40 + 7]
    assert edge.invoke({"value": 1e300})["y"] == 1e300
    assert edge.invoke({"value": 1763682000.123})["y"] == 1763682000.123
    with pytest.raises(StateError, match=r"does not fit int64. Pass a float"):
        edge.invoke({"value": 2**70})


def test_jax_arrays_of_64_bits_are_narrowed_or_refused() -> None:
    with jax.enable_x64(True):
        small, large = jnp.array([1, 2]), jnp.array([2**40])
    edge = jit_edge(lambda value: value, in_keys=["value"], out_key="y")
    assert edge.invoke({"value": small})["y"].dtype == np.int32
    with pytest.raises(StateError, match="does not fit int32"):
        edge.invoke({"value": large})


@pytest.mark.parametrize(
    "value",
    [[-1, 2**63], [1.5, 2**63], [[1.0], [2**64]], (-1, 2**63), [1j, 2**63], [0.5, -(2**63) - 1]],
    ids=repr,
)
@pytest.mark.parametrize("x64", [False, True])
def test_ints_beyond_63_bits_do_not_become_floats_in_a_list(value: Any, x64: bool) -> None:
    edge = jit_edge(lambda value: value, in_keys=["value"], out_key="y", x64=x64)
    with pytest.raises(
        StateError, match=rf"state\['value'\].*\[\d\] is -?\d+, which does not fit int{64 if x64 else 32}"
    ):
        edge.invoke({"value": value})


def test_ints_beyond_63_bits_do_not_become_floats_in_a_batch() -> None:
    edge = jit_edge(lambda value: value, in_keys=["value"], out_key="y", x64=True)
    over = vmap(edge, batch_key="xs", out_key="ys", item_to_state=lambda value: {"value": value}, result="y")
    with pytest.raises(StateError, match="is 9223372036854775808, which does not fit int64"):
        over.invoke({"xs": [-1, 2**63]})
    with pytest.raises(StateError, match="is 9223372036854775808, which does not fit int64"):
        over.invoke({"xs": [[1, 2], [-1, 2**63]]})
    assert over.invoke({"xs": [float(2**63), float("inf")]})["ys"] == [float(2**63), float("inf")]
    assert edge.invoke({"value": [float(2**70), 1]})["y"].tolist() == [float(2**70), 1.0]


LARGEST = np.finfo(np.longdouble).max


@pytest.mark.skipif(bool(np.finfo(np.float64).max == LARGEST), reason="long doubles are doubles here")
@pytest.mark.parametrize(
    "value", [LARGEST, np.array([1, LARGEST]), [LARGEST], np.clongdouble(LARGEST)], ids=str
)
def test_long_doubles_do_not_become_infinite(value: Any) -> None:
    for x64, bits in ((False, 32), (True, 64)):
        edge = jit_edge(lambda value: value, in_keys=["value"], out_key="y", x64=x64)
        kind = f"complex{2 * bits}" if np.iscomplexobj(value) else f"float{bits}"
        with pytest.raises(
            StateError, match=rf"state\['value'\] holds 1\.\d+e\+4932, which does not fit {kind}"
        ):
            edge.invoke({"value": value})
        assert edge.invoke({"value": np.array([1.5, np.inf], np.longdouble)})["y"].tolist() == [
            1.5,
            float("inf"),
        ]
        assert edge.invoke({"value": np.array(1.5, np.longdouble)})["y"] == 1.5


def test_complex_numbers_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(StateError, match=r"state\['value'\] is 1e\+300, which does not fit float32"):
        seen(complex(1, 1e300))


class Whole(int):
    pass


class Real(float):
    pass


class Both(complex):
    pass


@pytest.mark.parametrize(
    "values", [[Whole(1), Whole(2)], [Real(1), Real(2)], [Both(1), Both(2)]], ids=["int", "float", "complex"]
)
def test_subclasses_of_numbers_are_numbers(values: list[Any]) -> None:
    assert seen(*values)[1] == 1


def test_parts_are_shown_in_errors() -> None:
    edge = jit_edge(lambda *values: values[0].item(), in_keys=list("abcde"), out_key="y")
    state = {"a": 1.0, "b": "text", "c": {"k": [1, None]}, "d": [[1], [1, 2]], "e": Point(1.0, 2.0)}
    with pytest.raises(
        TypeError, match=r"a dynamic, b static 'text', c \{'k': \[.*\]\}, d \[dynamic, dynamic\], e PyTreeDef"
    ):
        edge.invoke(state)


def test_a_module_whose_static_field_cannot_be_hashed() -> None:
    with pytest.raises(
        StateError, match=r"state\['value'\] is PyTreeDef.*with a static field that cannot be hashed"
    ):
        seen(Scale(1.0, bytearray()))  # type: ignore[arg-type]
