"""Operators in graphs, in edges and as DSPy modules; DSPy modules in operators."""

import asyncio
import inspect
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypedDict

import dspy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from mahsm import Branch, RateLimit, connect, dspy_node, limits, operator_node, parallel, reduce_edge, vmap
from mahsm.errors import BudgetExceeded, MissingKeyError, NodeError, SpecError
from mahsm.operators import (
    ChainOperator,
    EnsembleOperator,
    ModelOperator,
    Operator,
    RouterOperator,
    as_dspy,
    op,
)
from mahsm.policies import Budget, Retry
from mahsm.testing import ModelServer, Reply
from tests.helpers import MODES, run, thread


class Question(BaseModel):
    text: str
    hops: int = 1


@dataclass
class Answer:
    said: str
    score: Any = 0.0


class Ask(Operator):
    input_spec = Question
    output_spec = Answer

    def forward(self, input: Any, /) -> Any:
        return Answer(input.text.upper() * input.hops, jnp.ones(2))


class AskLater(Ask):
    async def forward(self, input: Any, /) -> Any:
        return Answer(input.text.upper() * input.hops, jnp.ones(2))


class State(TypedDict, total=False):
    text: str
    hops: int
    said: str
    score: Any


@pytest.mark.parametrize("kind", [Ask, AskLater])
@pytest.mark.parametrize("mode", MODES)
def test_a_node_reads_and_writes_what_the_specs_say(kind: Any, mode: str) -> None:
    node = operator_node(kind())
    assert (node.name, node.reads, node.writes) == (kind.__name__, {"text", "hops"}, {"said", "score"})
    builder = StateGraph(State)
    builder.add_node("ask", node)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    found = run(graph, {"text": "a", "hops": 2}, mode, thread())
    assert (found["said"], found["score"].tolist()) == ("AA", [1.0, 1.0])
    assert run(graph, {"text": "b", "hops": 1}, mode, thread("2"))["said"] == "B"


def test_a_node_shows_the_signatures_of_its_call_and_of_its_class() -> None:
    node = operator_node(op(str.upper), input_fields="text", output_fields="loud")
    assert inspect.signature(node) == inspect.signature(node.__call__)
    assert "input_fields" in inspect.signature(type(node)).parameters
    assert repr(node) == "OperatorNode('upper')"


def test_fields_are_mapped_both_ways() -> None:
    node = operator_node(
        Ask(), input_fields={"text": "question"}, output_fields={"said": "answer"}, name="asks"
    )
    assert node.invoke({"question": "a", "text": "other"}) == {"answer": "A"}
    assert (node.reads, node.writes) == ({"question"}, {"answer"})
    assert operator_node(Ask(), input_fields=["text"], output_fields=["said"]).invoke({"text": "a"}) == {
        "said": "A"
    }


def test_bare_values_and_whole_states() -> None:
    assert operator_node(op(str.upper), input_fields="text", output_fields="said").invoke({"text": "a"}) == {
        "said": "A"
    }
    assert operator_node(op(lambda _: Question(text="a"))).invoke({}) == {"text": "a", "hops": 1}
    assert operator_node(op(lambda state: {"n": len(state)})).invoke({"a": 1, "b": 2}) == {"n": 2}


def test_arrays_of_jax_become_numpys() -> None:
    node = operator_node(
        op(lambda _: {"a": jnp.ones(2), "b": [jnp.array(1)], "c": {"d": (jnp.array(True), "x")}})
    )
    found = node.invoke({})
    assert type(found["a"]) is np.ndarray
    assert (found["b"], found["c"]) == ([1], {"d": (True, "x")})


@pytest.mark.parametrize(
    ("make", "state", "error", "message"),
    [
        (lambda: operator_node(len), {}, NodeError, "got <built-in function len>; expected an Operator"),
        (
            lambda: operator_node(op(len), input_fields=3),
            {},
            NodeError,
            "input_fields=3; expected a name, a list of field names",
        ),
        (lambda: operator_node(op(len), output_fields=[""]), {}, NodeError, r"output_fields=\[''\]"),
        (
            lambda: operator_node(op(len), input_fields="x", output_fields="n"),
            {"y": 1},
            MissingKeyError,
            "no key 'x'; it has 'y'",
        ),
        (lambda: operator_node(Ask(), input_fields=["text"]), {}, MissingKeyError, "state has no key 'text'"),
        (lambda: operator_node(Ask()), {"hops": 1}, SpecError, "text: Field required"),
        (
            lambda: operator_node(op(lambda _: 3)),
            {},
            NodeError,
            "returned 3; expected a dict or a model. Pass output_fields='key'",
        ),
        (
            lambda: operator_node(Ask(), output_fields=["nope"]),
            {"text": "a"},
            NodeError,
            "the output has no key 'nope'",
        ),
    ],
)
def test_errors_of_nodes(make: Any, state: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        make().invoke(state)


# In edges.


@pytest.mark.parametrize("kind", [Ask, AskLater])
@pytest.mark.parametrize("mode", MODES)
def test_operators_are_targets_of_every_edge(kind: Any, mode: str) -> None:
    asked = vmap(
        kind(), batch_key="texts", out_key="answers", item_to_state=lambda text: {"text": text}, result="said"
    )
    both = parallel(
        [
            Branch(kind(), name="a"),
            Branch(op(lambda state: {"n": len(state["said"])}), name="n", reads=["said"]),
        ],
        scheduler="wave",
    )
    best = reduce_edge(input_key="answers", output_key="best", reducer=op(max))
    assert run(asked, {"texts": ["a", "b"]}, mode) == {"answers": ["A", "B"]}
    assert run(both, {"text": "abc"}, mode)["n"] == 3
    assert run(best, {"answers": ["A", "B"]}, mode) == {"best": "B"}


def test_branches_know_what_operators_read_and_write() -> None:
    later = Branch(op(lambda state: {"loud": state["said"] + "!"}), name="loud", reads=["said"])
    assert parallel([later, Ask()], scheduler="wave").invoke({"text": "a"})["loud"] == "A!"


@pytest.mark.parametrize("mode", MODES)
def test_models_of_operators_count_in_edges(mode: str, name: str) -> None:
    """Rate limits, budgets and retries see the calls of bindings as they see those of DSPy modules."""
    with ModelServer([Reply.failed(500), "yes", "yes", "yes", "yes"]) as server:
        ask = ModelOperator(server.lm(num_retries=3), "{item}")
        options: dict[str, Any] = {"batch_key": "xs", "out_key": "ys", "max_concurrency": 1}
        assert run(vmap(ask, retry=Retry(base=0), **options), {"xs": ["a"]}, mode)["ys"] == ["yes"]
        assert len(server.calls) == 2, "one try for each attempt"
        limited = vmap(ask, rate_limit=RateLimit(name, rps=1000, tpm=100_000, tokens=10), **options)
        assert run(limited, {"xs": ["a"]}, mode)["ys"] == ["yes"]
        assert limits.stats()[name].admitted == 1
        with pytest.raises(BudgetExceeded):
            run(vmap(ask, budget=Budget(tokens=1), **options), {"xs": ["a", "b", "c"]}, mode)
        assert len(server.calls) == 4


@pytest.mark.parametrize("mode", MODES)
def test_a_smart_router_in_a_graph(mode: str) -> None:
    with ModelServer(lambda call: "cheap" if "Briefly" in call.text else "good") as server:
        routes = {
            "cheap": ModelOperator(server.lm(), "Briefly: {q}"),
            "good": ModelOperator(server.lm(), "Well: {q}"),
        }
        router = RouterOperator(routes, 1, weights=[[-1.0], [1.0]])
        edge = vmap(
            router,
            batch_key="qs",
            out_key="answers",
            item_to_state=lambda q: {"q": q, "features": [len(q) - 3.0]},
        )
        assert run(edge, {"qs": ["why", "a", "why not both?"]}, mode)["answers"] == ["cheap", "cheap", "good"]


# As DSPy modules.


def test_predictors_inside_are_visible_and_used() -> None:
    with ModelServer({"answer": "no", "b": "no"}) as server:
        grade = ModelOperator(server.lm(), signature="question -> answer")
        chain = ChainOperator(
            [EnsembleOperator([grade, grade.update_params(prompt="again")]), op(lambda found: {"all": found})]
        )
        module = as_dspy(chain)
        names = [name for name, _ in module.named_predictors()]
        assert names == ["modules['.steps[0].members[0].predictor']"], "one predictor in two places is one"
        assert module(question="?").all == ["no", "no"]
        assert asyncio.run(module.acall(question="?")).all == ["no", "no"]


class WithModule(Operator):
    """An operator with a DSPy module in a field."""

    ask: dspy.Module
    by: jax.Array

    def forward(self, input: Any, /) -> Any:
        return {"answer": self.ask(question=input["question"]).answer, "weight": float(self.by)}


def test_a_dspy_module_in_a_field() -> None:
    with ModelServer({"answer": "yes"}) as server, dspy.context(lm=server.lm()):
        operator = WithModule(dspy.Predict("question -> answer"), jnp.array(2.0))
        assert operator({"question": "?"}) == {"answer": "yes", "weight": 2.0}
        assert vmap(operator, batch_key="qs", out_key="ys", item_to_state=lambda q: {"question": q}).invoke(
            {"qs": ["a"]}
        )["ys"] == [{"answer": "yes", "weight": 2.0}]
        assert len(jax.tree.leaves(operator)) == 1


def test_copies_have_predictors_of_their_own() -> None:
    with ModelServer({"answer": "yes"}) as one, ModelServer({"answer": "no"}) as two:
        module = as_dspy(WithModule(dspy.Predict("question -> answer"), jnp.array(2.0)))
        module.set_lm(one.lm())
        copy = module.deepcopy()
        copy.set_lm(two.lm())
        assert (module(question="?").answer, copy(question="?").answer) == ("yes", "no")
        again = module.reset_copy()
        again.set_lm(two.lm())
        assert (module(question="?").answer, again(question="?").answer) == ("yes", "no")


def test_an_operator_that_cannot_be_copied_gets_the_copies_of_its_modules() -> None:
    class Locked(Operator):
        lock: Any
        inner: list[WithModule]
        named: dict[str, tuple[WithModule, ...]]

        def forward(self, input: Any, /) -> Any:
            return self.inner[0](input) | {"second": self.named["a"][0](input)["answer"]}

    with ModelServer({"answer": "yes"}) as one, ModelServer({"answer": "no"}) as two:
        asks = [WithModule(dspy.Predict("question -> answer"), jnp.array(2.0)) for _ in range(2)]
        module = as_dspy(Locked(threading.Lock(), asks[:1], {"a": (asks[1],)}))
        module.set_lm(one.lm())
        copy = module.deepcopy()
        copy.set_lm(two.lm())
        assert copy.op.lock is module.op.lock
        for each, answer in ((module, "yes"), (copy, "no")):
            assert (each(question="?").answer, each(question="?").second) == (answer, answer)


def test_demos_of_an_optimiser_land_in_the_operator(tmp_path: Any) -> None:
    """BootstrapFewShot compiles it, and what it learned is used, saved and loaded."""

    def answers(call: Any) -> Any:
        known = "7 + 8" in "".join(str(message["content"]) for message in call.messages[:-1])
        return {"answer": "15" if known or "7 + 8" in call.text else "unknown"}

    with ModelServer(answers) as server, dspy.context(lm=server.lm()):
        operator = ChainOperator(
            [WithModule(dspy.Predict("question -> answer"), jnp.array(2.0)), op(lambda found: found)]
        )
        module = as_dspy(operator, input_fields=["question"], output_fields=["answer"])
        optimiser = dspy.BootstrapFewShot(
            metric=lambda example, found, trace=None: example.answer == found.answer, max_bootstrapped_demos=1
        )
        example = dspy.Example(question="7 + 8", answer="15").with_inputs("question")
        compiled = optimiser.compile(module, trainset=[example])
        assert [len(predictor.demos) for predictor in (module.predictors()[0], compiled.predictors()[0])] == [
            0,
            1,
        ]
        assert module(question="What is 8 + 7?").answer == "unknown"
        assert compiled(question="What is 8 + 7?").answer == "15"
        compiled.save(tmp_path / "program.json")
        fresh = as_dspy(operator, input_fields=["question"], output_fields=["answer"])
        fresh.load(tmp_path / "program.json")
        assert fresh(question="What is 8 + 7?").answer == "15"


def test_inputs_and_outputs_of_dspy_modules() -> None:
    assert as_dspy(op(str.upper), input_fields="text")(text="a").output == "A"
    assert as_dspy(op(str.upper), input_fields="text", output_fields="loud")(text="a").loud == "A"
    assert as_dspy(Ask())(text="a", hops=2).said == "AA"
    with pytest.raises(MissingKeyError, match=r"as_dspy\(upper\): state has no key 'text'"):
        as_dspy(op(str.upper), input_fields="text")(texts="a")
    with pytest.raises(NodeError, match="as_dspy: got <built-in function len>; expected an Operator"):
        as_dspy(len)  # type: ignore[arg-type]


def test_an_operator_as_a_dspy_module_is_a_node_again() -> None:
    node = dspy_node(as_dspy(Ask()), input_fields=["text"], output_fields=["said"])
    assert node.invoke({"text": "a"}) == {"said": "A"}
    assert connect is not None


def test_an_operator_of_an_item_gets_the_item_in_an_edge() -> None:
    @op
    def length(text: str) -> int:
        return len(text)

    edge = vmap(length, batch_key="words", out_key="lengths")
    assert edge.invoke({"words": ["a", "bc"]}) == {"lengths": [1, 2]}
    with pytest.raises(NodeError, match="the target length takes one str, an item, but item_to_state="):
        vmap(length, batch_key="words", out_key="lengths", item_to_state=lambda word: {"text": word})


def test_an_operator_whose_spec_a_state_may_fit_gets_the_state() -> None:
    @op
    def names(state: Iterable[str]) -> list[str]:
        return sorted(state)

    assert vmap(names, batch_key="xs", out_key="ys").invoke({"xs": [1]}) == {"ys": [["item", "xs"]]}
