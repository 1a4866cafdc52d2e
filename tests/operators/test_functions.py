"""Functions as operators: their arguments, and what their annotations say."""

import asyncio
import inspect
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict

from mahsm import operator_node, operators, vmap
from mahsm.errors import MissingKeyError, RegistryError, SpecError
from mahsm.operators import ChainOperator, Operator, op


def called(operator: Any, *inputs: Any, **options: Any) -> Any:
    result = operator(*inputs, **options)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def awaited(operator: Any, *inputs: Any, **options: Any) -> Any:
    return asyncio.run(operator.acall(*inputs, **options))


@op
def add(x: int, y: int) -> int:
    return x + y


@op
async def add_later(x: int, y: int) -> int:
    return x + y


@op
def untyped(x, y):  # type: ignore[no-untyped-def]
    return x + y


@op
def with_more(x: int, *, y: int, times: int = 1) -> int:
    return (x + y) * times


WAYS = [called, awaited]
ADDERS: list[Any] = [add, add_later, untyped, with_more, op(input_spec=None)(lambda x, y: x + y)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("adder", ADDERS)
def test_functions_of_several_arguments(adder: Any, way: Any) -> None:
    assert way(adder, x=1, y=4) == 5
    assert way(adder, 1, 4) == 5
    assert way(adder, 1, y=4) == 5
    assert way(adder, {"x": 1, "y": 4, "more": 0}) == 5
    assert way(ChainOperator([op(lambda x: {"x": x, "y": x}), adder]), 3) == 6


@pytest.mark.parametrize("adder", ADDERS)
def test_functions_of_several_arguments_are_nodes_and_targets(adder: Any) -> None:
    assert operator_node(adder, output_fields="sum").invoke({"x": 1, "y": 4}) == {"sum": 5}
    edge = vmap(
        adder, batch_key="pairs", out_key="sums", item_to_state=lambda pair: {"x": pair[0], "y": pair[1]}
    )
    assert edge.invoke({"pairs": [(1, 2), (3, 4)]})["sums"] == [3, 7]


def test_a_node_of_a_function_knows_what_it_reads() -> None:
    assert operator_node(add, output_fields="sum").reads == {"x", "y"}
    assert operator_node(with_more, output_fields="sum").invoke({"x": 1, "y": 2, "times": 3}) == {"sum": 9}
    assert operator_node(with_more, input_fields={"x": "a", "y": "b"}, output_fields="c").invoke(
        {"a": 1, "b": 2}
    ) == {"c": 3}


def test_functions_of_one_argument_by_name() -> None:
    @op
    def power(base: float, exponent: int = 2) -> float:
        return base**exponent

    assert (power(3), power(base=3), power(3, 3), power(base=3, exponent=3), power(3, exponent=1)) == (
        9,
        9,
        27,
        27,
        3,
    )
    assert op(lambda state: state["x"] + state["y"])(x=1, y=4) == 5
    assert op(divmod)(7, 2) == (3, 1)


class Sums(Operator):
    def forward(self, input: Any, /) -> Any:
        return input["x"] + input["y"]


@pytest.mark.parametrize("way", WAYS)
def test_fields_of_the_input_of_any_operator_by_name(way: Any) -> None:
    assert way(Sums(), x=1, y=4) == 5
    with pytest.raises(
        TypeError, match="Sums was called without an input; expected one, or its fields by name"
    ):
        way(Sums())


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((1, 2, 3), {}, r"add was called with 1, 2, 3; expected x, y"),
        ((1,), {"x": 2}, r"add was called with 1, x=; expected x, y"),
        ((1,), {"z": 2}, r"add was called with 1, z=; expected x, y"),
    ],
)
def test_arguments_that_do_not_fit(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        add(*arguments, **options)


def test_an_argument_that_is_missing() -> None:
    with pytest.raises(
        SpecError, match=r"add: the input is {'x': 1}; expected add with x, y\. y: Field required"
    ):
        add(x=1)
    with pytest.raises(
        MissingKeyError, match=r"<lambda>: the input has no key 'y'; it has 'x'\. It is a parameter"
    ):
        op(input_spec=None)(lambda x, y: x + y)({"x": 1})


def test_modules_of_several_arguments() -> None:
    class Bilinear(eqx.Module):
        weight: jax.Array

        def __call__(self, left: Any, right: Any) -> Any:
            return left @ self.weight @ right

    bilinear = op(Bilinear(jnp.eye(2)))
    left, right = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    assert (
        bilinear(left=left, right=right)
        == bilinear({"left": left, "right": right})
        == bilinear(left, right)
        == 11.0
    )
    linear = op(eqx.nn.Linear(2, 1, key=jax.random.key(0)))
    assert linear(x=left) == linear(left)
    assert (bilinear.name, linear.title()) == ("Bilinear", "Linear")


# Annotations.


class Question(BaseModel):
    text: str


@dataclass
class Answer:
    text: str


class State(TypedDict):
    text: str
    later: str


@pytest.mark.parametrize("way", WAYS)
def test_specs_are_read_from_annotations(way: Any) -> None:
    @op
    def answer(question: Question) -> Answer:
        return {"text": question.text.upper()}  # type: ignore[return-value]

    @op
    async def answer_later(question: Question) -> Answer:
        return {"text": question.text.upper()}  # type: ignore[return-value]

    for each in (answer, answer_later):
        assert way(each, {"text": "a"}) == way(each, text="a") == way(each, Question(text="a")) == Answer("A")
        assert (operator_node(each).reads, operator_node(each).writes) == ({"text"}, {"text"})
        with pytest.raises(
            SpecError, match=r"answer\w*: the input is {'texts': 'a'}; expected Question with text\. text: "
        ):
            way(each, {"texts": "a"})


def test_errors_name_the_function() -> None:
    @op
    def halve(number: int) -> int:
        return number / 2  # type: ignore[return-value]

    with pytest.raises(
        SpecError, match=r"halve: the input is 'x'; expected int\. input: Input should be a valid integer"
    ):
        halve("x")
    with pytest.raises(SpecError, match=r"halve: the output is 1\.5; expected int"):
        halve(3)
    assert halve("4") == 2


class Speaks(Protocol):
    def speak(self) -> str: ...


SAYS_NOTHING: list[Any] = [
    Any,
    object,
    State,
    Speaks,
    "Unknown",
    Iterator[int],
    Iterable[int],
    AsyncIterator[int],
    Awaitable[int],
    Callable[[int], int],
]


@pytest.mark.parametrize("annotation", SAYS_NOTHING)
def test_annotations_that_say_nothing_that_can_be_checked(annotation: Any) -> None:
    def same(x):  # type: ignore[no-untyped-def]
        return x

    same.__annotations__ = {"x": annotation, "return": annotation}
    made = op(same)
    assert (made.input_spec, made.output_spec) == (None, None)
    value = {"text": "a", "more": 1}
    assert made(value) is value


def test_other_annotations() -> None:
    @dataclass
    class Unknown:
        x: "Float[Nowhere, 'n']"  # type: ignore[name-defined]  # noqa: F821

    assert op(input_spec=Unknown)(lambda it: it.x)(Unknown(1)) == 1  # type: ignore[arg-type]
    assert op(lambda x: x).input_spec is None

    @op
    def chosen(label: Literal["a", "b"]) -> Literal["a", "b"]:
        return label

    assert chosen("a") == "a"
    with pytest.raises(SpecError, match=r"chosen: the input is 'c'; expected typing\.Literal"):
        chosen("c")  # type: ignore[arg-type]
    union = op(input_spec=int | None)(lambda x: x)
    assert (union("3"), union(None)) == (3, None)


def test_a_callable_that_cannot_be_hashed() -> None:
    @dataclass
    class Adds:
        by: int

        def __call__(self, x: int | None) -> int:
            return (x or 0) + self.by

    made = op(Adds(2))
    assert (made.name, made("3"), made(None)) == ("Adds", 5, 2)


def test_specs_that_are_given_count_before_annotations() -> None:
    @op(input_spec=None, output_spec=str)
    def double(x: int) -> int:
        return x * 2

    assert double("a") == "aa"


def test_numbers_and_arrays_fit_annotations_of_the_other_library() -> None:
    @op
    def whole(x: int) -> int:
        return jnp.asarray(x)  # type: ignore[return-value]

    @op
    def part(x: float, array: np.ndarray, other: jax.Array) -> jax.Array:
        assert (type(x), type(array)) == (float, np.ndarray)
        assert isinstance(other, jax.Array)
        return array * x

    for one in (1, np.int64(1), np.array(1), jnp.array(1)):
        assert whole(one) == 1
        assert type(whole(one)) is int
        assert part(x=one, array=jnp.ones(2), other=np.ones(2)).tolist() == [1.0, 1.0]


def test_annotated_functions_can_be_traced() -> None:
    @op
    def scale(x: float, by: float) -> float:
        return x * by

    @op
    def double(x: float) -> float:
        return x * 2

    @op
    def norm(x: Float[Array, " n"]) -> Float[Array, ""]:
        return jnp.sqrt((x**2).sum())

    assert jax.grad(double)(1.0) == 2.0
    assert jax.jit(lambda x: scale(x=x, by=3.0))(2.0) == 6.0
    assert jax.vmap(norm)(jnp.ones((2, 4))).tolist() == [2.0, 2.0]
    with pytest.raises(SpecError, match="norm: the input"):
        jax.jit(norm)(jnp.ones((2, 4)))


def test_the_same_function_makes_equal_operators() -> None:
    def double(x: int, y: int) -> int:
        return x + y

    traces: list[int] = []
    jitted = jax.jit(lambda operator, x: (traces.append(1), x)[1])
    for _ in range(3):
        jitted(op(double), 1.0)
    assert len(traces) == 1


def both(x: int, y: int) -> int:
    return x + y


@pytest.mark.parametrize("made", [op(both), op(output_spec=str)(both), op(input_spec=None)(both)])
def test_operators_of_functions_are_pickled(made: Any) -> None:
    again = pickle.loads(pickle.dumps(made))
    assert (again.function, again.input_spec, again.output_spec) == (both, made.input_spec, made.output_spec)


def test_an_operator_keeps_its_function() -> None:
    def double(x: int) -> int:
        return x * 2

    made: Any = op(double)
    assert made.__wrapped__ is inspect.unwrap(made) is double
    assert inspect.signature(made) == inspect.signature(double)
    assert "function" in inspect.signature(type(made)).parameters


# Shapes.


@dataclass
class Rows:
    rows: Float[Array, "n d"]
    labels: Int[Array, " n"]


class Model(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    rows: Float[Array, "n d"]
    labels: Int[Array, " n"] | None = None


@pytest.mark.parametrize("spec", [Rows, Model])
def test_shapes_in_specs_are_checked(spec: Any) -> None:
    @op(input_spec=spec)
    def count(input: Any) -> Any:
        return len(input.rows)

    fits: dict[str, Any] = {"rows": jnp.ones((3, 2)), "labels": jnp.zeros(3, int)}
    assert count(fits) == count(spec(**fits)) == 3
    for change, message in {
        "rows": (jnp.ones(3), r"rows.*Float\[Array, 'n d'\]|rows: Input should be an instance of Float"),
        "labels": (
            jnp.zeros(4, int),
            r"labels is int32\[4\]; expected .*Int\[.*'n'\].*, where rows is float32\[3, 2\]",
        ),
    }.items():
        value, expected = message
        with pytest.raises(SpecError, match=rf"(?s)count: the input is .*({expected})"):
            count({**fits, change: value})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_name_of_a_size_is_one_size_in_the_input_and_the_output(is_async: bool, way: Any) -> None:
    @op
    def first(rows: Float[Array, "n d"]) -> Float[Array, " d"]:
        return rows[0] if rows.shape[0] < 3 else rows[:, 0]

    @op
    async def first_later(rows: Float[Array, "n d"]) -> Float[Array, " d"]:
        return first.function(rows)

    made = first_later if is_async else first
    assert way(made, np.ones((2, 4))).shape == (4,)
    with pytest.raises(
        SpecError, match=r"the output is .*It is float32\[3\]; expected Float\[Array, 'd'\], where it is"
    ):
        way(made, jnp.ones((3, 4)))


def test_sizes_of_one_call_do_not_bind_those_of_another() -> None:
    @op
    def total(x: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, ""]:
        return (x * y).sum()

    for size in (2, 3):
        assert total(jnp.ones(size), jnp.ones(size)) == size
    with pytest.raises(
        SpecError, match=r"total: .*y is float32\[3\]; expected Float\[Array, 'n'\], where x is float32\[2\]"
    ):
        total(jnp.ones(2), jnp.ones(3))


def test_typed_dicts_and_lists_of_shapes() -> None:
    class Arrays(TypedDict, total=False):
        rows: Float[Array, "n d"]
        others: list[Float[Array, " d"]]

    count = op(input_spec=Arrays)(len)
    assert count({"rows": jnp.ones((1, 2)), "others": [jnp.ones(2)]}) == 2
    assert count({"others": [jnp.ones(3)]}) == 1
    with pytest.raises(SpecError, match=r"others is a list; expected .*, where rows is float32\[1, 2\]"):
        count({"rows": jnp.ones((1, 2)), "others": [jnp.ones(3)]})


def test_operators_by_name() -> None:
    operators.register("test shout", op(lambda text: text.upper()))
    operators.register("test times", lambda factor=2: op(lambda x: x * factor))
    assert operators.get("test shout")("a") == "A"
    assert (operators.get("test times")(3), operators.get("test times", factor=4)(3)) == (6, 12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: operators.get("test shuot"), "named 'test shuot'; there are .*Did you mean 'test shout'"),
        (
            lambda: operators.get("test shout", x=1),
            r"(?s)with x is .*; expected a function that",
        ),
        (lambda: operators.get("test none"), "'test none' with no options is None; expected a function"),
        (lambda: operators.register("", op(lambda x: x)), "the name is ''; expected a string"),
        (lambda: operators.register("test", 3), "'test' is to be 3; expected an operator, or a function"),
    ],
)
def test_a_wrong_name_of_an_operator(call: Any, message: str) -> None:
    operators.register("test shout", op(lambda text: text.upper()))
    operators.register("test none", lambda: None)
    with pytest.raises(RegistryError, match=message):
        call()
