"""`Operator`: fields, specs and calls."""

import asyncio
import copy
import dataclasses
import enum
import pickle
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Final, Generic, Literal, Optional, Protocol, TypeVar

import dspy
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float
from pydantic import BaseModel
from typing_extensions import TypedDict

from mahsm import operator_node, vmap
from mahsm.errors import JitError, MahsmError, NodeError, SpecError
from mahsm.operators import (
    ChainOperator,
    EnsembleOperator,
    ModelBinding,
    Operator,
    RouterOperator,
    as_dspy,
    model_field,
    op,
    param,
    prompt_field,
    spec_field,
)
from mahsm.testing import ModelServer


class Color(enum.Enum):
    RED = 1


class Question(BaseModel):
    text: str
    hops: int = 1


@dataclass
class Answer:
    text: str
    score: float = 0.0


class Scale(Operator):
    by: jax.Array

    def forward(self, input: Any, /) -> Any:
        return input * self.by


class Speaks(Protocol):
    def speak(self) -> str: ...


@dataclass
class Weights:
    values: jax.Array


@dataclass
class Plain:
    name: str


class Arrays(TypedDict):
    values: jax.Array


class Options(TypedDict):
    temperature: float


T = TypeVar("T")

STATIC: dict[str, tuple[Any, Any]] = {
    "str": (str, "a"),
    "int": (int, 1),
    "float": (float, 1.0),
    "bool": (bool, True),
    "bytes": (bytes, b"a"),
    "None": (None, None),
    "enum": (Color, Color.RED),
    "Literal": (Literal["a", "b"], "a"),
    "type": (type[BaseModel], Question),
    "optional str": (Optional[str], None),  # noqa: UP045
    "union": (str | int | None, 1),
    "list of str": (list[str], ["a"]),
    "tuple of ints": (tuple[int, ...], (1, 2)),
    "dict of str": (dict[str, str], {"a": "b"}),
    "sequence of str": (Sequence[str], ("a",)),
    "Annotated": (Annotated[str, "note"], "a"),
    "Final": (Final[str], "a"),
    "pydantic model": (Question, Question(text="a")),
    "language model": (dspy.LM, dspy.LM("openai/m")),
    "DSPy module": (dspy.Module, dspy.Predict("a -> b")),
    "binding": (ModelBinding, ModelBinding("openai/m")),
    "plain dataclass": (Plain, Plain("a")),
    "dict": (dict, {"temperature": 0.7}),
    "dict of Any": (dict[str, Any], {"temperature": 0.7, "more": [1, {"a": 2.0}]}),
    "dict of objects": (dict[str, object], {"a": 1}),
    "dict or None": (dict[str, Any] | None, {"a": 1.0}),
    "typing's dict": (typing.Dict, {"a": 1}),  # noqa: UP006
    "mapping": (Mapping, {"a": 1}),
    "typing's mapping": (typing.Mapping[str, Any], {"a": 1}),
    "list of dicts": (list[dict[str, Any]], [{"a": 1.0}]),
    "typed dict": (Options, {"temperature": 0.7}),
    "a class of one's own": (asyncio.Lock, asyncio.Lock()),
}

LEAVES: dict[str, tuple[Any, Any]] = {
    "Any": (Any, "a"),
    "object": (object, "a"),
    "Callable": (Callable, len),
    "Callable of": (Callable[[int], int], len),
    "list": (list, ["a"]),
    "dict of arrays": (dict[str, jax.Array], {"a": jnp.ones(2)}),
    "typed dict with arrays": (Arrays, {"values": jnp.ones(2)}),
    "array": (jax.Array, jnp.ones(2)),
    "NumPy array": (np.ndarray, np.ones(2)),
    "NumPy number": (np.float32, np.float32(1)),
    "jaxtyping": (Float[Array, " k"], jnp.ones(2)),
    "union with arrays": (jax.Array | None, jnp.ones(2)),
    "list of arrays": (list[jax.Array], [jnp.ones(2)]),
    "operator": (Operator, Scale(jnp.ones(2))),
    "list of operators": (list[Operator], [Scale(jnp.ones(2))]),
    "dict of operators": (dict[str, Operator], {"a": Scale(jnp.ones(2))}),
    "Equinox module": (eqx.nn.Linear, eqx.nn.Linear(2, 1, key=jax.random.key(0))),
    "a text that cannot be looked up": ("Unknown", "a"),
    "type variable": (T, "a"),
    "protocol": (Speaks, "a"),
    "dataclass with arrays": (Weights, "a"),
}


def operator_with(annotation: Any, **namespace: Any) -> type[Operator]:
    forward = {"forward": lambda self, input: input, "__module__": __name__}
    return type("Made", (Operator,), {"__annotations__": {"field": annotation}, **forward, **namespace})


@pytest.mark.parametrize(("annotation", "value"), STATIC.values(), ids=STATIC)
def test_what_orchestrates_is_static(annotation: Any, value: Any) -> None:
    made = operator_with(annotation)(field=value)
    assert jax.tree.leaves(made) == []
    assert made.field is value or made.field == value
    jax.jit(lambda made: 1.0)(made)


@pytest.mark.parametrize(("annotation", "value"), LEAVES.values(), ids=LEAVES)
def test_what_may_hold_arrays_stays_a_leaf(annotation: Any, value: Any) -> None:
    made = operator_with(annotation)(field=value)
    assert len(jax.tree.leaves(made)) == len(jax.tree.leaves(value)) > 0


def test_annotations_that_are_texts_are_looked_up() -> None:
    made = operator_with("str")("a")
    assert jax.tree.leaves(made) == []
    assert jax.tree.leaves(operator_with("list[Operator]")([Scale(jnp.ones(2))]))[0].shape == (2,)
    assert operator_with("ClassVar[str]", field="a")().field == "a"


@pytest.mark.parametrize(
    "value",
    [
        jnp.ones(2),
        np.ones(2),
        [jnp.ones(2)],
        {"a": (1, np.ones(1))},
        Scale(jnp.ones(2)),
        (Scale(jnp.ones(2)),),
    ],
)
def test_an_array_in_a_static_field_is_an_error_that_names_it(value: Any) -> None:
    made = operator_with(str)
    with pytest.raises(
        TypeError,
        match=r"Made\.field got .*holds an array, but its annotation makes it static. Annotate it as ",
    ):
        made(value)
    with pytest.raises(TypeError, match=r"Made\.field got"):
        made("a").update_params(field=value)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        ({"a": jnp.ones(2)}, r"dict\[str, jax\.Array\]"),
        ({"text": "a", "rows": [np.ones(2)]}, r"dict\[str, list\[jax\.Array\]\]"),
        ({"a": ("b", Scale(jnp.ones(2)))}, r"dict\[str, tuple\[Scale, \.\.\.\]\]"),
    ],
)
@pytest.mark.parametrize("annotation_before", [dict, dict[str, Any], Mapping[str, Any]])
def test_an_array_among_configuration_is_an_error_that_shows_the_annotation(
    value: Any, annotation: str, annotation_before: Any
) -> None:
    with pytest.raises(
        TypeError, match=rf"Made\.field got .*Annotate it as {annotation}, as Any if it holds more"
    ):
        operator_with(annotation_before)(value)


@pytest.mark.parametrize("annotation", [dict, dict[str, Any], dict[str, float], float])
def test_configuration_is_never_trained(annotation: Any) -> None:
    class Made(Operator):
        options: annotation  # type: ignore[valid-type]
        by: jax.Array = param(1.0)

        def forward(self, input: Any, /) -> Any:
            temperature = self.options["temperature"] if isinstance(self.options, dict) else self.options
            return input * self.by * temperature

    made = Made(0.7 if annotation is float else {"temperature": 0.7})
    optimiser = optax.sgd(0.1)
    gradients = jax.grad(lambda made: made(2.0))(made)
    updates, _ = optimiser.update(gradients, optimiser.init(made), made)
    after = optax.apply_updates(made, updates)
    assert after.options == made.options
    assert float(after.by) == pytest.approx(1 - 0.1 * 2 * 0.7)


def test_a_number_of_numpy_in_a_static_field_becomes_pythons() -> None:
    assert type(operator_with(int)(np.int64(3)).field) is int


def test_class_variables_and_properties_are_no_fields() -> None:
    class Made(Operator):
        count: ClassVar[int] = 3
        name: str

        @property
        def loud(self) -> str:
            return self.name.upper()

        def forward(self, input: Any, /) -> Any:
            return self.loud * self.count

    assert [field.name for field in dataclasses.fields(Made)] == ["name"]
    assert Made("a")(None) == "AAA"


def test_field_order_does_not_matter() -> None:
    class First(Operator):
        model: Any = model_field(default="openai/m")
        label: str
        rates: list[float] = [0.5]  # noqa: RUF012  each instance gets its own
        weights: jax.Array

        def forward(self, input: Any, /) -> Any:
            return input

    class Second(First):
        more: jax.Array
        label: str = "b"

    first = First(label="a", weights=jnp.ones(1))
    assert (first.model, first.label, first.rates) == (ModelBinding("openai/m"), "a", [0.5])
    assert first.rates is not First(label="a", weights=jnp.ones(1)).rates
    second = Second(weights=jnp.ones(1), more=jnp.ones(2))
    assert (second.label, second.more.shape) == ("b", (2,))
    with pytest.raises(TypeError, match="weights"):
        First(label="a")  # type: ignore[call-arg]


def test_an_array_as_a_default() -> None:
    made = operator_with(jax.Array, field=jnp.ones(2))
    assert made().field.shape == (2,)


def test_initialisers_of_ones_own_and_generic_operators() -> None:
    class Made(Operator, Generic[T]):
        name: str
        weights: jax.Array

        def __init__(self, size: int) -> None:
            self.name = f"of {size}"
            self.weights = jnp.zeros(size)

        def forward(self, input: Any, /) -> Any:
            return self.weights.shape

    assert Made(3)(None) == (3,)
    assert len(jax.tree.leaves(Made(3))) == 1


def test_check_init_runs() -> None:
    class Made(Operator):
        top: int

        def __check_init__(self) -> None:
            if self.top < 1:
                raise ValueError(f"top={self.top}")

        def forward(self, input: Any, /) -> Any:
            return input

    with pytest.raises(ValueError, match="top=0"):
        Made(0)
    with pytest.raises(ValueError, match="top=-1"):
        Made(1).update_params(top=-1)


class Configuration(Operator):
    name: str
    rates: dict[str, Any]


def test_an_operator_without_forward_holds_data() -> None:
    class Uses(Operator):
        of: Configuration

        def forward(self, input: Any, /) -> Any:
            return input * self.of.rates["good"]

    made = Configuration("a", {"good": 2})
    assert Uses(made)(3) == 6
    assert jax.tree.leaves(made) == []


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda made: made(1), TypeError),
        (lambda made: asyncio.run(made.acall(1)), TypeError),
        (lambda made: operator_node(made), NodeError),
        (lambda made: vmap(made, batch_key="xs", out_key="ys"), NodeError),
        (lambda made: as_dspy(made), NodeError),
        (lambda made: EnsembleOperator([made]), TypeError),
        (lambda made: ChainOperator([made]), TypeError),
        (lambda made: RouterOperator({"a": made}, 1), TypeError),
    ],
)
def test_an_operator_without_forward_cannot_be_called(use: Any, error: Any) -> None:
    with pytest.raises(
        error, match=r"Configuration has no forward, so it only holds data; expected an operator that can be"
    ):
        use(Configuration("a", {}))


def test_an_operator_with_an_aforward_alone() -> None:
    class Later(Operator):
        async def aforward(self, input: Any, /) -> Any:
            return input + 1

    assert Later()(1) == asyncio.run(Later().acall(1)) == 2


# Specs.


class Ask(Operator):
    input_spec = Question
    output_spec = Answer

    def forward(self, input: Any, /) -> Any:
        return {"text": input.text.upper(), "score": input.hops}


class AskLater(Operator):
    input_spec: type = Question
    output_spec: type = Answer

    async def forward(self, input: Any, /) -> Any:
        return Answer(input.text, "much") if input.hops > 1 else {"text": input.text}  # type: ignore[arg-type]


def test_specs_make_models_of_dicts() -> None:
    assert Ask()({"text": "a", "hops": 2}) == Answer("A", 2.0)
    assert Ask()(Question(text="b")) == Answer("B", 1.0)
    assert asyncio.run(AskLater()({"text": "a"})) == Answer("a")
    assert asyncio.run(AskLater().acall({"text": "a"})) == Answer("a")
    assert dataclasses.fields(AskLater) == ()


@pytest.mark.parametrize(
    ("input", "message"),
    [
        ({"hops": 1}, r"Ask: the input is .*; expected Question with text, hops. text: Field required"),
        ({"text": "a", "hops": "many"}, r"hops: Input should be a valid integer"),
        ("text", r"the input is 'text'; expected Question"),
    ],
)
def test_an_input_that_does_not_fit(input: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Ask()(input)


def test_an_output_that_does_not_fit() -> None:
    class Wrong(Operator):
        output_spec = Answer

        def forward(self, input: Any, /) -> Any:
            return input

    with pytest.raises(SpecError, match=r"Wrong: the output is 3; expected Answer with text, score"):
        Wrong()(3)
    with pytest.raises(SpecError, match="the output is"):
        asyncio.run(Wrong().acall(3))
    assert issubclass(SpecError, MahsmError)


def test_specs_of_types() -> None:
    class Made(Operator):
        input_spec: Any = spec_field()

        def forward(self, input: Any, /) -> Any:
            return input

    assert Made(int)("3") == 3
    assert Made(list[int])(["3"]) == [3]
    assert Made()("3") == "3"
    assert Made(jax.Array)(jnp.ones(1)).shape == (1,)
    assert Made(list[jax.Array])([jnp.ones(1)])[0].shape == (1,)
    assert Made(Weights)({"values": 3}) == Weights(3)  # type: ignore[arg-type]
    for spec, message in (
        (jax.Array, "instance of .*Array"),
        (Weights, "must be a mapping"),
        (list[jax.Array], "valid list"),
    ):
        with pytest.raises(SpecError, match=rf"the input is 3; expected .*{message}"):
            Made(spec)(3)

    class Narrower(Made):
        name: str = "a"

    with pytest.raises(SpecError, match="the input is 'x'; expected int"):
        Narrower(int)("x")


def test_specs_work_while_jax_traces() -> None:
    @op(input_spec=jax.Array)
    def double(x: Any) -> Any:
        return x * 2

    assert jax.jit(lambda x: double(x))(jnp.ones(1))[0] == 2.0


# Fields.


def test_a_model_field_makes_bindings() -> None:
    class Made(Operator):
        models: Any = model_field(temperature=0.5)

        def forward(self, input: Any, /) -> Any:
            return input

    assert Made("openai/a").models == ModelBinding("openai/a", temperature=0.5)
    assert Made(["openai/a"]).models == [ModelBinding("openai/a", temperature=0.5)]
    assert Made({"x": "openai/a", "y": ("openai/b",)}).models["y"] == (
        ModelBinding("openai/b", temperature=0.5),
    )
    assert Made(ModelBinding("openai/a", temperature=0.1)).models == ModelBinding("openai/a", temperature=0.5)
    assert Made(dspy.LM("openai/a", temperature=0.1)).models.lm.kwargs["temperature"] == 0.5
    assert jax.tree.leaves(Made("openai/a")) == []
    for wrong in (3, ""):
        with pytest.raises(
            TypeError,
            match=r"the model is .*; expected a name, such as '.*', a dspy.LM, or a chat model of LangChain",
        ):
            Made(wrong)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (
            "Hi",
            ValueError,
            r"the prompt 'Hi' has no variable \{name\}, \{city\}; expected \{name\}, \{city\}",
        ),
        ("{name} of {city} in {land}", ValueError, r"has an unknown variable \{land\}"),
        ("{name", ValueError, "expected '}'"),
        (3, TypeError, r"the prompt is 3; expected a string with \{name\}, \{city\}"),
    ],
)
def test_a_prompt_that_lacks_variables_is_refused_when_built(value: Any, error: Any, message: str) -> None:
    made = operator_with(str, field=prompt_field(template_vars=["name", "city"]))
    assert made("{name} of {city.old} {{}}").field == "{name} of {city.old} {{}}"
    with pytest.raises(error, match=message):
        made(value)


def test_a_parameter_becomes_an_array() -> None:
    made = operator_with(Any, field=param(2.0))
    assert (made().field.dtype, made().field.weak_type, made([1, 2]).field.shape) == (
        jnp.float32,
        False,
        (2,),
    )
    assert operator_with(Any, field=param(1, dtype=jnp.int32))().field.dtype == jnp.int32
    with pytest.raises(TypeError, match="field"):
        operator_with(Any, field=param())()


# Bindings.


def test_bindings_compare_by_value() -> None:
    one, same = ModelBinding("openai/a", temperature=1.0), ModelBinding("openai/a", temperature=1.0)
    assert one == same
    assert hash(one) == hash(same)
    assert one != ModelBinding("openai/a", temperature=1)
    assert one != ModelBinding("openai/b", temperature=1.0)
    assert one != "openai/a"
    assert ModelBinding.of(dspy.LM("openai/a")) == ModelBinding.of(dspy.LM("openai/a"))
    assert ModelBinding.of(dspy.LM("openai/a")) != ModelBinding.of(dspy.LM("openai/a", temperature=0.3))
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one


def test_an_equal_binding_does_not_retrace() -> None:
    class Routed(Operator):
        models: Any = model_field()
        weights: jax.Array

        def forward(self, input: Any, /) -> Any:
            return self.weights * input

    traces: list[int] = []
    jitted = jax.jit(lambda routed, x: (traces.append(1), routed(x))[1])
    for name in ("openai/a", "openai/a", "openai/b"):
        jitted(Routed({"x": name}, weights=jnp.ones(2)), 2.0)
    assert len(traces) == 2


def test_a_binding_needs_no_credentials_until_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer("yes") as server:
        binding = ModelBinding("openai/m", api_base=server.base_url, cache=False)
        monkeypatch.setenv("OPENAI_API_KEY", "from the environment")
        assert binding("Well?").text == "yes"
        assert asyncio.run(binding.acall("Well?")).text == "yes"
        assert len(server.calls) == 2
        assert str(ModelBinding.of(server.lm())("Well?")) == "yes"


def test_secrets_are_not_shown() -> None:
    shown = repr(
        ModelBinding("openai/m", api_key="hunter2", max_tokens=5, extra_headers={"Authorization": "hunter3"})
    )
    assert (
        shown
        == "ModelBinding('openai/m', api_key='...', max_tokens=5, extra_headers={'Authorization': '...'})"
    )


class Local(dspy.BaseLM):
    """A language model of one's own, whose base class knows nothing of its path."""

    def __init__(self, path: str) -> None:
        super().__init__(model="mine/local")
        self.path = path

    def forward(self, prompt: Any = None, messages: Any = None, **options: Any) -> Any:
        raise NotImplementedError


class Kept(Local):
    def dump_state(self) -> dict[str, Any]:
        return {"path": self.path}

    @classmethod
    def load_state(cls, state: dict[str, Any], *, allow_custom_lm_class: bool = False) -> "Kept":
        return cls(**state)


def test_a_language_model_of_another_class_equals_itself_only() -> None:
    lm, dummy = Local("/a"), dspy.utils.DummyLM([{"answer": "a"}])
    assert ModelBinding.of(lm) == ModelBinding.of(lm)
    assert hash(ModelBinding.of(lm)) == hash(ModelBinding.of(lm))
    assert ModelBinding.of(lm) != ModelBinding.of(Local("/b"))
    assert ModelBinding.of(lm) != ModelBinding.of(Local("/a"))
    assert ModelBinding.of(dummy) != ModelBinding.of(dspy.utils.DummyLM([{"answer": "b"}]))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1},
        {"api_base": "http://elsewhere"},
        {"api_key": "other"},
        {"cache": False},
        {"model_type": "responses"},
        {"num_retries": 0},
        {"engine": "litellm"},
        {"use_developer_role": True},
    ],
)
def test_language_models_with_other_options_differ(options: Any) -> None:
    one = {"temperature": 1.0, "api_key": "a"}
    assert ModelBinding.of(dspy.LM("openai/a", **one)) == ModelBinding.of(dspy.LM("openai/a", **one))
    assert ModelBinding.of(dspy.LM("openai/a", **one)) != ModelBinding.of(
        dspy.LM("openai/a", **{**one, **options})
    )
    assert ModelBinding("openai/a", **one) != ModelBinding("openai/a", **{**one, **options})


def test_the_order_of_options_does_not_matter() -> None:
    assert ModelBinding("openai/a", temperature=1.0, max_tokens=5) == ModelBinding(
        "openai/a", max_tokens=5, temperature=1.0
    )
    assert ModelBinding("openai/a", odd=bytearray()) != ModelBinding("openai/a", odd=bytearray())


SECRETS: dict[str, Any] = {
    "api_key": "hunter2",
    "extra_headers": {"Authorization": "hunter2", "X-Team": "red"},
    "azure_ad_token": "hunter2",
    "max_tokens": 5,
}


@pytest.mark.parametrize(
    "binding",
    [
        ModelBinding("openai/m", cache=False, **SECRETS),
        ModelBinding.of(dspy.LM("openai/m", model_type="responses", cache=False, num_retries=1, **SECRETS)),
    ],
    ids=["by name", "of a dspy.LM"],
)
def test_a_binding_is_pickled_as_the_same_model_without_its_key(binding: Any) -> None:
    data = pickle.dumps(binding)
    assert b"hunter" not in data
    again = pickle.loads(data)
    assert (again.options["max_tokens"], again.options["extra_headers"]) == (5, {"X-Team": "red"})
    wanted, found = binding.lm, again.lm
    assert (type(found), found.model, found.model_type) == (type(wanted), wanted.model, wanted.model_type)
    assert (found.cache, found.num_retries) == (wanted.cache, wanted.num_retries)
    assert again != binding, "it has no key"
    assert pickle.loads(pickle.dumps(again)) == again


def test_a_language_model_that_does_not_say_what_is_kept_is_not_pickled() -> None:
    for lm in (Local("/a"), dspy.utils.DummyLM([{"answer": "a"}])):
        with pytest.raises(
            TypeError,
            match=r"of class \w+, cannot be pickled.*Define dump_state and the class method load_state",
        ):
            pickle.dumps(ModelBinding.of(lm))
    again = pickle.loads(pickle.dumps(ModelBinding.of(Kept("/a"))))
    assert (type(again.lm), again.lm.path) == (Kept, "/a")


def test_options_hold_for_a_binding_that_has_been_called() -> None:
    binding = ModelBinding("openai/a", temperature=0.1)
    assert binding.lm.kwargs["temperature"] == 0.1
    assert ModelBinding.of(binding, temperature=0.5).lm.kwargs["temperature"] == 0.5
    of_lm = ModelBinding.of(dspy.LM("openai/a", temperature=0.1))
    assert ModelBinding.of(of_lm, temperature=0.5).lm.kwargs["temperature"] == 0.5
    assert ModelBinding.of(of_lm) is of_lm


@pytest.mark.parametrize(
    "transform", [jax.jit, jax.grad, jax.vmap, eqx.filter_jit, partial(jax.vmap, in_axes=0)]
)
def test_a_binding_refuses_to_run_while_jax_traces(transform: Any) -> None:
    binding = ModelBinding("openai/m")
    argument = jnp.ones(2) if "vmap" in str(transform) else jnp.ones(())
    with pytest.raises(
        JitError, match="the model 'openai/m' is called while JAX traces or transforms a function"
    ):
        transform(lambda x: x * len(binding("Well?")))(argument)


# Copies.


def test_update_params_replaces_static_and_dynamic_fields() -> None:
    class Made(Operator):
        model: Any = model_field()
        by: jax.Array = param(1.0)

        def forward(self, input: Any, /) -> Any:
            return input * self.by

    before = Made("openai/a")
    after = before.update_params(model="openai/b", by=3)
    assert (after.model, float(after(2.0))) == (ModelBinding("openai/b"), 6.0)
    assert (before.model, float(before(2.0))) == (ModelBinding("openai/a"), 2.0)
    with pytest.raises(AttributeError, match="Made has no field 'modle'; it has 'model', 'by'"):
        before.update_params(modle="openai/b")


# Functions.


def test_op_makes_operators_of_functions_and_modules() -> None:
    @op
    def double(x: Any) -> Any:
        """Doubles."""
        return x * 2

    @op(output_spec=int)
    async def later(x: Any) -> Any:
        return f"{x}"

    assert (double(3), double.name, double.awaits) == (6, "double", False)
    assert asyncio.run(later.acall(3)) == asyncio.run(later(3)) == 3
    assert later.awaits
    linear = op(eqx.nn.Linear(2, 1, key=jax.random.key(0)))
    assert linear(jnp.ones(2)).shape == (1,)
    assert len(jax.tree.leaves(linear)) == 2
    assert op(double) is double
    for wrong in (3, Question):
        with pytest.raises(
            TypeError, match="expected a function with at least one parameter or an Equinox module"
        ):
            op(wrong)  # type: ignore[call-overload]


def test_options_reach_forward() -> None:
    @op
    def add(x: Any, *, to: int = 0) -> Any:
        return x + to

    assert add(1, to=2) == 3
    assert asyncio.run(add.acall(1, to=2)) == 3


def test_a_language_model_whose_options_cannot_be_compared() -> None:
    lm = dspy.LM("openai/a", extra={"odd": bytearray()})
    assert ModelBinding.of(lm) == ModelBinding.of(lm)
    assert ModelBinding.of(lm) != ModelBinding.of(lm.copy())
