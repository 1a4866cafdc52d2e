"""The operators that come with the package: models, ensembles, chains, routers, hybrids."""

import asyncio
from typing import Any, Literal

import dspy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import BaseModel

from mahsm import is_item_error, vmap
from mahsm.errors import MissingKeyError, SpecError, StateError
from mahsm.operators import (
    ChainOperator,
    EnsembleOperator,
    HybridOperator,
    LearnableOperator,
    ModelOperator,
    Operator,
    RouterOperator,
    op,
    operator_node,
    param,
)
from mahsm.testing import ModelServer
from tests.helpers import MODES, run


class Verdict(BaseModel):
    good: bool
    why: str


# Models.

ANSWERS = [(float, "0.5", 0.5), (bool, "True", True), (Literal["a", "b"], "b", "b")]


@pytest.mark.parametrize("awaited", [False, True])
def test_a_prompt_gives_text(awaited: bool) -> None:
    with ModelServer(lambda call: call.text.upper()) as server:
        shout = ModelOperator(server.lm(), "{text}, {name}!")
        inputs: list[Any] = [{"text": "hi", "name": "ada"}, Named(text="ho", name="bob")]
        found = [asyncio.run(shout.acall(each)) if awaited else shout(each) for each in inputs]
    assert [text.split("\n")[-1] for text in found] == ["HI, ADA!", "HO, BOB!"]


class Named(BaseModel):
    text: str
    name: str


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize(("answer", "text", "expected"), ANSWERS)
def test_a_typed_answer(answer: Any, text: str, expected: Any, awaited: bool) -> None:
    with ModelServer({"answer": text}) as server:
        grade = ModelOperator(server.lm(), "Grade this: {essay}", answer=answer)
        assert (asyncio.run(grade.acall("An essay.")) if awaited else grade("An essay.")) == expected
        assert "Grade this: {essay}" in server.calls[0].messages[0]["content"]


def test_a_signature() -> None:
    with ModelServer({"good": "True", "why": "It is."}) as server:
        judge = ModelOperator(server.lm(), signature="question, answer -> good: bool, why")
        assert judge({"question": "?", "answer": "!"}) == {"good": True, "why": "It is."}
    with ModelServer({"answer": '{"good": false, "why": "No."}'}) as server:
        assert ModelOperator(server.lm(), "Judge {text}", answer=Verdict)("x") == Verdict(
            good=False, why="No."
        )


def test_a_missing_variable() -> None:
    with pytest.raises(
        MissingKeyError, match=r"the input has no key 'name'; it has 'text'. Its prompt needs 'name'"
    ):
        ModelOperator("openai/m", "{text} {name}")({"text": "a"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "got prompt=None and signature=None; expected one of them"),
        ({"prompt": "{a}", "signature": "a -> b"}, "expected one of them"),
        ({"signature": "a -> b", "answer": int}, "give the type in the signature"),
        ({"prompt": "no variables", "answer": int}, "without variables; expected at least one"),
    ],
)
def test_what_is_no_model_operator(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelOperator("openai/m", **options)


def test_an_optimised_predictor_keeps_its_model() -> None:
    with ModelServer({"b": "first"}) as one, ModelServer({"b": "second"}) as two:
        ask = ModelOperator(one.lm(), signature="a -> b")
        assert ask("x") == "first"
        ask.predictor.lm = two.lm()
        assert ask("x") == "second"


# At once, and one after the other.


def test_members_that_wait_run_at_once() -> None:
    def ensemble() -> EnsembleOperator:
        barrier = asyncio.Barrier(3)

        async def member(x: Any) -> Any:
            await barrier.wait()
            return x

        return EnsembleOperator([op(member), op(member), op(member)])

    assert ensemble()(1) == [1, 1, 1]
    assert asyncio.run(ensemble().acall(2)) == [2, 2, 2]


def test_the_first_error_of_a_member_comes_out() -> None:
    async def fails(x: Any) -> Any:
        raise ConnectionError("down")

    with pytest.raises(ConnectionError, match="down"):
        EnsembleOperator([op(lambda x: x), op(fails)])(1)


def test_waiting_on_an_event_loop_is_an_error_that_says_what_to_do() -> None:
    async def waits(x: Any) -> Any:
        return x

    async def wrong() -> Any:
        return EnsembleOperator([op(waits)])(1)

    with pytest.raises(RuntimeError, match=r"on an event loop; expected await op\.acall"):
        asyncio.run(wrong())


def test_chains_and_ensembles_of_each_other() -> None:
    async def later(x: Any) -> Any:
        return x + 1

    both = ChainOperator(
        [EnsembleOperator([op(lambda x: x * 2), ChainOperator([op(later), op(later)])]), op(sum)]
    )
    assert both(10) == asyncio.run(both.acall(10)) == 32


def test_numeric_ensembles_can_be_traced() -> None:
    ensemble = EnsembleOperator(
        [op(lambda x: x * 2), op(lambda x: x + 1)], combine=lambda found: jnp.stack(found).mean(axis=0)
    )
    assert jax.jit(lambda x: ChainOperator([ensemble, ensemble])(x))(jnp.array(1.0)) == 3.5
    assert jax.grad(ensemble)(1.0) == 1.5


@pytest.mark.parametrize("kind", [EnsembleOperator, ChainOperator])
@pytest.mark.parametrize(
    ("value", "message"),
    [([], "expected a list of at least one operator"), ([len], "Make one from a function with"), (3, "=3;")],
)
def test_what_are_no_operators(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        kind(value)


# Routes.


def routed(**options: Any) -> RouterOperator:
    return RouterOperator({"low": op(lambda x: "low"), "high": op(lambda x: "high")}, 1, **options)


def test_a_router_takes_the_route_with_the_highest_score() -> None:
    router = routed(weights=[[-1.0], [1.0]])
    assert [router({"features": [x]}) for x in (-1.0, 1.0)] == ["low", "high"]
    assert asyncio.run(router.acall({"features": [2.0]})) == "high"
    assert router.scores([2.0]).tolist() == [-2.0, 2.0]
    assert routed(feature_key="f", bias=[0.0, 1.0])({"f": [0.0]}) == "high"
    assert routed().choose([5.0]) == "low", "without weights, the first"


def test_a_router_over_models() -> None:
    with ModelServer(lambda call: "short" if "Briefly" in call.text else "long") as server:
        models = {
            "cheap": ModelOperator(server.lm(), "Briefly: {q}"),
            "good": ModelOperator(server.lm(), "At length: {q}"),
        }
        router = RouterOperator(models, 1, weights=[[-1.0], [1.0]])
        assert [router({"features": [x], "q": "?"}) for x in (-1.0, 1.0)] == ["short", "long"]


def test_what_is_no_router() -> None:
    with pytest.raises(ValueError, match=r"weights has shape \(1, 1\); expected \(2, 1\)"):
        routed(weights=[[1.0]])
    with pytest.raises(ValueError, match=r"routes={}; expected a dict of operators"):
        RouterOperator({}, 1)
    with pytest.raises(TypeError, match="expected operators"):
        RouterOperator({"a": len}, 1)  # type: ignore[dict-item]
    with pytest.raises(MissingKeyError, match="the input has no key 'features'; it has 'x'"):
        routed()({"x": 1})


# What learns.


def test_a_learnable_operator_needs_a_parameter() -> None:
    class Made(LearnableOperator):
        name: str

        def forward(self, input: Any, /) -> Any:
            return input

    with pytest.raises(TypeError, match="Made has no parameter: none of its fields holds an array of floats"):
        Made("a")


def test_parameters_are_replaced() -> None:
    class Made(LearnableOperator):
        name: str
        by: jax.Array = param(2.0)
        count: jax.Array = param(1, dtype=jnp.int32)

        def forward(self, input: Any, /) -> Any:
            return input * self.by

    made = Made("a")
    assert (made.parameters.count, float(made.parameters.by), made.parameters.name) == (None, 2.0, "a")
    after = made.with_parameters(jax.tree.map(lambda x: x * 10, made.parameters))
    assert (float(after(1.0)), int(after.count)) == (20.0, 1)


# Hybrids.


class Explore(HybridOperator):
    """Draws an arm, and asks its model."""

    routes: dict[str, Operator]
    bias: jax.Array

    def compute(self, x: Any, *, key: jax.Array) -> Any:
        noise = jax.random.normal(key, self.bias.shape)
        return {"arm": jnp.argmax(self.bias * x + noise), "noise": noise}

    async def forward(self, input: Any, computed: Any, /) -> Any:
        label = list(self.routes)[computed["arm"]]
        return {"arm": label, "said": await self.routes[label].acall(input), "noise": computed["noise"]}


def explore(lm: Any) -> Explore:
    return Explore(
        {"a": ModelOperator(lm, "A {q}"), "b": ModelOperator(lm, "B {q}")}, bias=jnp.array([0.0, 1.0])
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_hybrid_computes_for_all_items_at_once_and_calls_for_each(mode: str) -> None:
    with ModelServer(lambda call: call.text.split()[-2]) as server:
        node = operator_node(explore(server.lm()))
        edge = vmap(
            node,
            batch_key="xs",
            out_key="ys",
            item_to_state=lambda x: {"x": x, "q": f"q{x}"},
            max_concurrency=64,
        )
        ys = run(edge, {"xs": [float(number) for number in range(-10, 10)], "seed": 3}, mode)["ys"]
        assert node._program.stats.calls == 1
        assert len(server.calls) == 20
    assert [y["said"] for y in ys] == [y["arm"].upper() for y in ys]
    assert {y["arm"] for y in ys} == {"a", "b"}
    assert len({tuple(y["noise"].tolist()) for y in ys}) == 20, "never the same key twice"
    for number, y in enumerate(ys):
        assert y["arm"] == "ab"[int((np.array([0.0, number - 10.0]) + y["noise"]).argmax())]


def test_the_draws_of_a_hybrid_depend_on_the_seed_and_the_place_only() -> None:
    class Draw(HybridOperator):
        def compute(self, *, key: jax.Array) -> Any:
            return jax.random.normal(key)

        def forward(self, input: Any, computed: Any, /) -> Any:
            return computed

    edge = vmap(Draw(), batch_key="xs", out_key="ys")
    many = edge.invoke({"xs": list(range(50)), "seed": 1})["ys"]
    assert len(set(many)) == 50
    assert edge.invoke({"xs": [7, 8], "seed": 1})["ys"] == many[:2]
    assert edge.invoke({"xs": [7, 8], "seed": 2})["ys"] != many[:2]
    assert Draw()({"seed": 1}) == Draw()({"seed": 1}) != Draw()({"seed": 2})
    assert asyncio.run(Draw().acall({"seed": 1})) == Draw()({"seed": 1})


class Draws(HybridOperator):
    def compute(self, *, key: jax.Array) -> Any:
        return jax.random.normal(key)

    def forward(self, input: Any, computed: Any, /) -> Any:
        return {"y": computed}


def test_one_seed_draws_the_same_everywhere() -> None:
    draws, state = Draws(), {"seed": 1, "x": 0}
    alone = draws(state)
    assert asyncio.run(draws.acall(state)) == alone
    assert operator_node(draws).invoke(state) == alone
    assert operator_node(draws, name="renamed").invoke(state) == alone
    assert jax.jit(lambda: draws(state))() == alone
    assert jax.jit(lambda seed: draws({"seed": seed}))(1) == alone
    for target in (draws, operator_node(draws, name="renamed")):
        assert vmap(target, batch_key="xs", out_key="ys").invoke({"xs": [0], "seed": 1})["ys"] == [alone]
        own = vmap(target, batch_key="xs", out_key="ys", item_to_state=lambda seed: {"seed": seed})
        assert own.invoke({"xs": [1]})["ys"] == [alone]
        many = vmap(target, batch_key="xs", out_key="ys").invoke({"xs": [0, 0, 0], "seed": 1})["ys"]
        assert many[0] == alone
        assert len({y["y"] for y in many}) == 3


@pytest.mark.parametrize(
    "way", [lambda draws, state: draws(state), lambda draws, state: operator_node(draws).invoke(state)]
)
@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "1", None])
def test_a_seed_that_is_none_is_refused_alone_and_in_a_node(seed: Any, way: Any) -> None:
    with pytest.raises(
        StateError,
        match=r"Draws: state\['seed'\] is .*; expected a seed, an integer from 0 to 2\*\*32 - 1",
    ):
        way(Draws(), {"seed": seed})
    with pytest.raises(StateError, match=r"expected a seed"):
        jax.jit(lambda: Draws()({"seed": seed}))()


class Divides(HybridOperator):
    by: Any
    static: float
    weights: jax.Array

    def compute(self, x: Any) -> Any:
        return x / self.by, self.weights * self.static

    def forward(self, input: Any, computed: Any, /) -> Any:
        return {"y": computed}


@pytest.mark.parametrize(
    "way",
    [lambda divides, state: divides(state), lambda divides, state: operator_node(divides).invoke(state)],
)
def test_numbers_that_are_equal_do_not_share_a_compilation_of_a_hybrid(way: Any) -> None:
    weights = jnp.array([2])
    for number in (0.0, -0.0, 0.0, 1, 1.0, True, 1):
        (quotient, product) = way(Divides(number, number, weights), {"x": 1.0})["y"]
        assert np.array_equal(quotient, jnp.float32(1.0) / number)
        expected = weights * number
        assert (product.dtype.kind, product.tolist()) == (expected.dtype.kind, expected.tolist()), (
            "edges compute integers in 64 bits"
        )


def test_a_hybrid_alone_compiles_once_for_all_of_its_structure() -> None:
    traces: list[int] = []

    class Traced(HybridOperator):
        by: jax.Array

        def compute(self, x: Any) -> Any:
            traces.append(1)
            return x * self.by

        def forward(self, input: Any, computed: Any, /) -> Any:
            return computed

    assert Traced(jnp.array(1.0))({"x": 2.0}) == 2.0
    before = len(traces)
    assert [Traced(jnp.array(float(number)))({"x": 2.0}) for number in range(5)] == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert len(traces) == before


class Grow(HybridOperator):
    by: jax.Array
    name: str = "a"

    def compute(self, x: Any, on: Any) -> Any:
        return x * self.by if on else x

    def forward(self, input: Any, computed: Any, /) -> Any:
        return {"name": self.name, "grown": computed}


def test_a_hybrid_alone_and_as_a_node() -> None:
    grow = Grow(by=jnp.array(2.0))
    assert grow({"x": 3.0, "on": True}) == {"name": "a", "grown": 6.0}
    assert grow({"x": [1, 2], "on": False})["grown"].tolist() == [1, 2]
    node = operator_node(grow, input_fields={"x": "length", "on": "grows"}, output_fields={"grown": "longer"})
    assert node.invoke({"length": 3.0, "grows": True}) == {"longer": 6.0}
    assert asyncio.run(node.ainvoke({"length": 3.0, "grows": False})) == {"longer": 3.0}
    with pytest.raises(MissingKeyError, match="no key 'on'"):
        grow({"x": 3.0})


def test_failures_of_a_hybrid_are_those_of_items() -> None:
    edge = vmap(
        Grow(by=jnp.array(2.0)),
        batch_key="xs",
        out_key="ys",
        item_to_state=lambda x: {"x": 1 / x, "on": True},
        on_error="collect",
    )
    ys = edge.invoke({"xs": [1.0, 0.0, 2.0]})["ys"]
    assert [is_item_error(y) for y in ys] == [False, True, False]
    with pytest.raises(StateError, match="of type object"):
        vmap(
            Grow(by=jnp.array(2.0)),
            batch_key="xs",
            out_key="ys",
            item_to_state=lambda x: {"x": x, "on": True},
        ).invoke({"xs": [object()]})


def test_a_hybrid_with_specs() -> None:
    class Numbers(BaseModel):
        x: float
        on: bool = True

    class Checked(Grow):
        input_spec = Numbers

    checked = Checked(by=jnp.array(2.0))
    assert checked({"x": 3.0, "on": True})["grown"] == 6.0
    with pytest.raises(SpecError, match="Checked: the input is"):
        checked({"x": 3.0, "on": "perhaps"})


def test_what_is_no_hybrid() -> None:
    class Made(HybridOperator):
        def forward(self, input: Any, computed: Any, /) -> Any:
            return computed

    with pytest.raises(
        TypeError, match=r"Made has no compute; expected a method compute\(self, ...\) that JAX can trace"
    ):
        Made()


def test_dspy_is_not_needed_for_a_text() -> None:
    assert ModelOperator("openai/m", "{a}").predictor is None
    assert isinstance(ModelOperator("openai/m", "{a}", answer=int).predictor, dspy.Predict)
