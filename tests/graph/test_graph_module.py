"""`GraphModule`: a compiled graph as a DSPy program, wherever its modules are."""

import ast
import asyncio
import gc
import inspect
import pickle
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import dspy
import pytest
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, Send, interrupt
from typing_extensions import TypedDict

from mahsm import GraphModule, connect, dspy_node, operator_node, parallel, reduce_edge, vmap
from mahsm.errors import GraphError, MissingKeyError
from mahsm.operators import ChainOperator, Operator, op
from mahsm.reducers import llm_judge_select, tree_reduce
from mahsm.testing import Call, FakeLM, Reply

DEMO = dspy.Example(text="demo", out="demo", candidates=["demo"], best=1)


class State(TypedDict, total=False):
    text: str
    texts: list[str]
    out: Any
    extra: Any


def echo() -> dspy.Predict:
    return dspy.Predict("text -> out")


def graph_of(node: Any, **options: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("node", node)
    return connect(builder, START, "node", END).compile(**options)


def over_texts(target: Any, **options: Any) -> Any:
    return vmap(
        target,
        batch_key="texts",
        out_key="out",
        item_to_state=lambda text: {"text": text},
        name="edge",
        **options,
    )


def edge_stream(edge: Any) -> Any:
    return connect(StateGraph(State), START, edge, END).compile()


def sends() -> Any:
    builder = StateGraph(State)
    builder.add_node("node", dspy_node(echo(), output_fields={"out": "extra"}))
    builder.add_conditional_edges(
        START, lambda state: [Send("node", {"text": text}) for text in state["texts"][:1]], ["node"]
    )
    builder.add_edge("node", END)
    return builder.compile()


def functional() -> Any:
    node = dspy_node(echo())

    @entrypoint()
    def run(state: State) -> State:
        return node.invoke(state)

    return run


def in_a_function() -> Any:
    edge = over_texts(echo())

    def node(state: State) -> Any:
        return edge.invoke(state)

    return graph_of(node)


def judged(**options: Any) -> Any:
    class Judge(dspy.Signature):
        candidates: list[str] = dspy.InputField()
        best: int = dspy.OutputField()

    return edge_stream(
        reduce_edge(input_key="texts", output_key="out", reducer=llm_judge_select(judge=Judge), name="pick")
    )


class Asks(Operator):
    """An operator with a DSPy module in a field."""

    ask: dspy.Module

    def forward(self, input: Any, /) -> Any:
        return {"out": self.ask(text=input["text"]).out}


class TwoParts(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.ChainOfThought("text -> out")
        self.more = [echo()]

    def forward(self, text: str) -> Any:
        return self.more[0](text=self.first(text=text).out)


class Nested(TypedDict):
    text: str
    out: str


def subgraph() -> Any:
    builder = StateGraph(Nested)
    builder.add_node("inner", dspy_node(echo()))
    return connect(builder, START, "inner", END).compile(name="sub")


GRAPHS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "node": (lambda: graph_of(dspy_node(echo())), ["node"]),
    "custom": (lambda: graph_of(dspy_node(TwoParts())), ["node'].first.predict", "node'].more[0]"]),
    "lambda": (
        lambda: graph_of(RunnableLambda(dict) | dspy_node(echo(), name="in a sequence")),
        ["node/in a sequence"],
    ),
    "functional": (functional, ["run/Predict"]),
    "subgraph": (lambda: graph_of(subgraph()), ["node/inner"]),
    "sends": (sends, ["node"]),
    "vmap of a module": (lambda: edge_stream(over_texts(echo())), ["edge/Predict"]),
    "vmap of a node": (lambda: edge_stream(over_texts(dspy_node(echo(), name="echo"))), ["edge/echo"]),
    "vmap of a graph": (lambda: edge_stream(over_texts(subgraph())), ["edge/sub/inner"]),
    "vmap of a vmap": (lambda: edge_stream(over_texts(over_texts(echo()))), ["edge/edge/Predict"]),
    "vmap in a function": (in_a_function, ["node/edge/Predict"]),
    "vmap compiled alone": (lambda: over_texts(echo()).compile(), ["edge/Predict"]),
    "parallel": (
        lambda: edge_stream(
            parallel(
                {"a": dspy_node(echo(), output_fields=["out"]), "b": lambda state: {"extra": 1}}, name="both"
            )
        ),
        ["both/a"],
    ),
    "judge": (judged, ["pick/judge/Predict"]),
    "tree": (
        lambda: edge_stream(
            reduce_edge(
                input_key="texts",
                output_key="out",
                reducer=tree_reduce(merge=dspy_node(echo(), input_fields={"text": "items"}), result="out"),
                name="tree",
            )
        ),
        ["tree/vmap_Predict/Predict"],
    ),
    "operator": (
        lambda: graph_of(
            operator_node(ChainOperator([Asks(echo()), op(lambda found: found)]), output_fields=["out"])
        ),
        ["node/steps[0].ask"],
    ),
}
each_graph = pytest.mark.parametrize("kind", GRAPHS)


def program_of(kind: str) -> GraphModule:
    return GraphModule(GRAPHS[kind][0](), outputs=None if kind in ("functional", "sends") else ["out"])


def model(call: Call) -> dict[str, object]:
    """Says of what it was taught by demos."""
    if call.outputs == ["best"]:
        return {"best": 1}
    return {name: f"{len(call.demos)} demos" for name in call.outputs}


def demos_seen(run: Callable[[], object]) -> set[int]:
    lm = FakeLM(model)
    with dspy.context(lm=lm):
        run()
    assert lm.calls
    return {len(call.demos) for call in lm.calls}


INPUTS: dict[str, Any] = {"text": "t", "texts": ["a", "b", "c"]}


def inputs_of(kind: str) -> dict[str, Any]:
    return INPUTS if kind != "functional" else {"text": "t"}


@each_graph
def test_predictors_have_the_paths_of_their_nodes(kind: str) -> None:
    names = [name for name, _ in program_of(kind).named_predictors()]
    assert names == [f"nodes['{path}" + ("" if "'" in path else "']") for path in GRAPHS[kind][1]]


@each_graph
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_demos_land_in_the_copy_and_the_graph_is_untouched(kind: str, is_async: bool) -> None:
    program = program_of(kind)
    copied = program.deepcopy()
    for predictor in copied.predictors():
        predictor.demos = [DEMO]

    def run(one: Any) -> Any:
        return asyncio.run(one.acall(**inputs_of(kind))) if is_async else one(**inputs_of(kind))

    assert demos_seen(lambda: run(copied)) == {1}
    assert demos_seen(lambda: run(program)) == {0}
    live = program.graph
    assert demos_seen(
        lambda: asyncio.run(live.ainvoke(inputs_of(kind))) if is_async else live.invoke(inputs_of(kind))
    ) == {0}

    copied.apply()
    assert demos_seen(
        lambda: asyncio.run(live.ainvoke(inputs_of(kind))) if is_async else live.invoke(inputs_of(kind))
    ) == {1}
    copied.predictors()[0].demos = []  # what is done to the program later is not done to the graph
    assert demos_seen(lambda: live.invoke(inputs_of(kind))) == {1}


@each_graph
def test_the_trace_holds_the_programs_own_predictors(kind: str) -> None:
    program = program_of(kind).deepcopy()
    with dspy.context(lm=FakeLM(model), trace=[]):
        program(**inputs_of(kind))
        traced = {id(predictor) for predictor, _, _ in dspy.settings.trace}
    assert traced == {id(predictor) for predictor in program.predictors()}


def test_copies_run_at_the_same_time() -> None:
    program = GraphModule(edge_stream(over_texts(echo(), result="out")), outputs=["out"])
    copies = [program.deepcopy() for _ in range(8)]
    for number, copied in enumerate(copies):
        copied.predictors()[0].demos = [DEMO] * number
    parallel_runs = dspy.Parallel(num_threads=8, disable_progress_bar=True)
    with dspy.context(lm=FakeLM(model, latency=0.01)):
        results = parallel_runs([(copied, {"texts": ["a"] * 3}) for copied in copies])
        assert [result.out for result in results] == [[f"{number} demos"] * 3 for number in range(8)]

        async def all_at_once() -> list[Any]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(copied.acall(texts=["a"])) for copied in copies]
            return [task.result().out for task in tasks]

        assert asyncio.run(all_at_once()) == [[f"{number} demos"] for number in range(8)]


def test_what_dspy_does_with_programs(tmp_path: Path) -> None:
    program = GraphModule(graph_of(dspy_node(TwoParts())), outputs={"answer": "out"})
    lm = FakeLM(model)
    program.set_lm(lm)
    assert program.get_lm() is lm
    assert program(text="t").answer == "0 demos"
    examples = [dspy.Example(text=str(number), answer="0 demos").with_inputs("text") for number in range(5)]
    assert [one.answer for one in program.batch(examples, disable_progress_bar=True)] == ["0 demos"] * 5
    metric = dspy.evaluate.answer_exact_match
    assert (
        dspy.Evaluate(devset=examples, metric=metric, num_threads=3, display_progress=False)(program).score
        == 100
    )

    program.predictors()[0].demos = [DEMO]
    program.set_lm(None)
    program.save(tmp_path / "program.json")
    other = GraphModule(graph_of(dspy_node(TwoParts())), outputs={"answer": "out"})
    other.load(tmp_path / "program.json")
    assert [len(predictor.demos) for predictor in other.predictors()] == [1, 0]
    assert [len(predictor.demos) for predictor in program.reset_copy().predictors()] == [0, 0]
    assert [len(predictor.demos) for predictor in program.predictors()] == [1, 0]
    with pytest.raises(ValueError, match="must end with"):
        program.save(tmp_path / "program.txt")


def test_a_program_is_not_pickled(tmp_path: Path) -> None:
    program = GraphModule(graph_of(dspy_node(echo())))
    for refused in (
        partial(pickle.dumps, program),
        partial(program.save, tmp_path / "whole", save_program=True),
    ):
        with pytest.raises(
            GraphError,
            match=r"cannot be pickled. Save its .* with program.save\('program.json'\)",
        ):
            refused()
    assert not (tmp_path / "whole").exists()


def test_the_state_of_another_graph(tmp_path: Path) -> None:
    program = GraphModule(graph_of(dspy_node(echo())))
    program.save(tmp_path / "program.json")
    other = GraphModule(edge_stream(over_texts(echo())))
    with pytest.raises(
        GraphError,
        match=r"that it lacks: \"nodes\['edge/Predict'\]\"; that this graph lacks: \"nodes\['node'\]\"",
    ):
        other.load(tmp_path / "program.json")


def test_modules_that_are_shared_stay_shared() -> None:
    module = echo()
    builder = StateGraph(State)
    builder.add_node("a", dspy_node(module))
    builder.add_node("b", dspy_node(module))
    graph = connect(builder, START, "a", "b", END).compile()
    program = GraphModule(graph).deepcopy()
    assert [name for name, _ in program.named_predictors()] == ["nodes['a']"]
    program.predictors()[0].demos = [DEMO]
    assert demos_seen(lambda: program(text="t")) == {1}
    program.apply()
    assert demos_seen(lambda: graph.invoke({"text": "t"})) == {1}
    assert module.demos == []


class Watch(dspy.utils.BaseCallback):
    def __init__(self) -> None:
        self.seen = 0

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.seen += 1


def test_apply_keeps_the_callbacks_of_the_graphs_modules() -> None:
    watch = Watch()
    graph = graph_of(dspy_node(dspy.ChainOfThought("text -> out", callbacks=[watch])))
    GraphModule(graph).apply()
    with dspy.context(lm=FakeLM(model)):
        graph.invoke({"text": "t"})
    assert watch.seen == 1


def test_a_module_that_cannot_be_copied_as_a_whole() -> None:
    module = TwoParts()
    module.lock = __import__("threading").Lock()  # type: ignore[attr-defined]
    program = GraphModule(graph_of(dspy_node(module))).deepcopy()
    assert program.predictors()[0] is not module.predictors()[0]
    assert demos_seen(lambda: program(text="t")) == {0}


# Runs.


def test_it_runs_without_checkpointer_and_caches() -> None:
    saver, cache = InMemorySaver(), InMemoryCache()
    builder = StateGraph(State)
    builder.add_node("node", dspy_node(echo()), cache_policy=CachePolicy())
    edge = over_texts(echo(), cache=InMemoryCache())
    builder.add_node("more", edge)
    graph = connect(builder, START, "node", "more", END).compile(checkpointer=saver, cache=cache)
    program = GraphModule(graph)
    inputs = {"text": "t", "texts": ["a"]}
    with dspy.context(lm=FakeLM(model)):
        graph.invoke(inputs, {"configurable": {"thread_id": "1"}})  # fills the caches
    assert demos_seen(lambda: program(**inputs)) == {0}
    for predictor in program.predictors():
        predictor.demos = [DEMO]
    assert demos_seen(lambda: program(**inputs)) == {1}
    assert len({one.config["configurable"]["thread_id"] for one in saver.list(None)}) == 1


def test_functions_that_can_only_be_awaited() -> None:
    async def more(state: State) -> State:
        await asyncio.sleep(0)
        return {"extra": state["out"]}

    builder = StateGraph(State)
    builder.add_node("node", dspy_node(echo()))
    builder.add_node("more", more)
    program = GraphModule(connect(builder, START, "node", "more", END).compile(), outputs=["extra"])
    program.predictors()[0].demos = [DEMO]
    with dspy.context(lm=FakeLM(model)):
        assert program(text="t").extra == "1 demos"
        assert asyncio.run(program.acall(text="t")).extra == "1 demos"


def test_outputs_are_what_the_graph_wrote_unless_said_otherwise() -> None:
    with dspy.context(lm=FakeLM(model)):
        assert GraphModule(graph_of(dspy_node(echo())))(text="t").toDict() == {"out": "0 demos"}
        assert GraphModule(graph_of(dspy_node(echo())), outputs=["text", "out"])(text="t").text == "t"
        assert program_of("functional")(text="t").out == "0 demos"


def test_an_entrypoint_that_gives_a_value() -> None:
    node = dspy_node(echo())

    @entrypoint()
    def run(state: State) -> str:
        return node.invoke(state)["out"]

    with dspy.context(lm=FakeLM(model)):
        assert GraphModule(run)(text="t").output == "0 demos"


class Depth(TypedDict):
    depth: int


def test_config_and_context_reach_each_run() -> None:
    def node(state: State, runtime: Runtime[Depth], config: RunnableConfig) -> Any:
        return {"extra": (runtime.context["depth"], config["configurable"]["user"])}

    builder = StateGraph(State, context_schema=Depth)
    builder.add_node("node", dspy_node(echo()))
    builder.add_node("more", node)
    graph = connect(builder, START, "node", "more", END).compile()
    program = GraphModule(graph, config={"configurable": {"user": "ada"}}, context={"depth": 2}).deepcopy()
    with dspy.context(lm=FakeLM(model)):
        assert program(text="t").extra == (2, "ada")


def test_a_program_in_a_node_of_another_graph() -> None:
    inner = GraphModule(graph_of(dspy_node(echo())), outputs=["out"])
    outer = GraphModule(
        edge_stream(over_texts(dspy_node(inner, input_fields=["text"], name="inner"), result="out")),
        outputs=["out"],
    )
    assert [name for name, _ in outer.named_predictors()] == ["nodes['edge/inner/node']"]
    outer.predictors()[0].demos = [DEMO]
    with dspy.context(lm=FakeLM(model)):
        assert outer(texts=["a", "b"]).out == ["1 demos", "1 demos"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_the_trace_has_items_in_their_order_whoever_is_quicker(is_async: bool) -> None:
    def slow_first(call: Call) -> Any:
        return Reply({"out": "x"}, latency=0.05 - int(call.inputs["text"]) * 0.01)

    builder = StateGraph(State)
    builder.add_node("first", dspy_node(echo()))
    builder.add_node("sent", dspy_node(echo(), output_fields={"out": "extra"}))
    edge = over_texts(echo())
    connect(builder, START, "first", edge)
    builder.add_conditional_edges(
        "edge", lambda state: [Send("sent", {"text": text}) for text in state["texts"][:1]], ["sent"]
    )
    builder.add_edge("sent", END)
    program = GraphModule(builder.compile(), outputs=["out"])
    inputs = {"text": "4", "texts": ["0", "1", "2", "3"]}
    with dspy.context(lm=FakeLM(slow_first), trace=[]):
        _ = asyncio.run(program.acall(**inputs)) if is_async else program(**inputs)
        texts = [inputs["text"] for _, inputs, _ in dspy.settings.trace]
    assert texts == ["4", "0", "1", "2", "3", "0"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_the_trace_has_nodes_side_by_side_in_the_order_of_their_names(is_async: bool) -> None:
    def slow_first(call: Call) -> Any:
        return Reply(dict.fromkeys(call.outputs, "x"), latency=0.05 if "out" in call.outputs else 0.0)

    builder = StateGraph(State)
    builder.add_node("a", dspy_node(TwoParts()))
    builder.add_node("b", dspy_node(dspy.Predict("text -> extra")))
    connect(builder, START, "a", END)
    connect(builder, START, "b", END)
    program = GraphModule(builder.compile())
    with dspy.context(lm=FakeLM(slow_first), trace=[]):
        _ = asyncio.run(program.acall(text="t")) if is_async else program(text="t")
        names = [program.predictors().index(predictor) for predictor, _, _ in dspy.settings.trace]
    assert names == [0, 1, 2]


def test_a_long_trace_is_cut_as_dspy_cuts_it() -> None:
    program = GraphModule(edge_stream(over_texts(echo(), max_concurrency=1)), outputs=["out"])
    with dspy.context(lm=FakeLM(model), trace=[], max_trace_size=2):
        program(texts=["0", "1", "2", "3"])
        assert [inputs["text"] for _, inputs, _ in dspy.settings.trace] == ["2", "3"]
    with dspy.context(lm=FakeLM(model), trace=None):
        program(texts=["0"])


def test_a_trace_around_it_keeps_its_length() -> None:
    program = GraphModule(graph_of(dspy_node(echo())))
    with dspy.context(lm=FakeLM(model), trace=[], max_trace_size=3):
        for number in range(5):
            program(text=str(number))
        assert [inputs["text"] for _, inputs, _ in dspy.settings.trace] == ["2", "3", "4"]


def test_best_of_n_inside_writes_its_best_trace() -> None:
    best = dspy.BestOfN(module=echo(), N=2, reward_fn=lambda inputs, prediction: 1.0, threshold=1.0)
    program = GraphModule(graph_of(dspy_node(best)))
    with dspy.context(lm=FakeLM(model), trace=[]):
        assert program(text="t").out == "0 demos"
        assert len(dspy.settings.trace) == 1


# Failures.


class Broken(Exception):
    pass


def test_errors_in_items_come_out_by_their_own_type_with_the_trace_so_far() -> None:
    def node(state: Any) -> Any:
        raise Broken(state["text"])

    builder = StateGraph(State)
    builder.add_node("node", dspy_node(echo()))
    connect(builder, START, "node", over_texts(node), END)
    program = GraphModule(builder.compile())
    with dspy.context(lm=FakeLM(model), trace=[]):
        with pytest.raises(Broken):
            program(text="t", texts=["a", "b"])
        with pytest.raises(Broken):
            asyncio.run(program.acall(text="t", texts=["a", "b"]))
        assert len(dspy.settings.trace) == 2


def test_an_optimiser_sees_what_could_not_be_parsed_in_an_item() -> None:
    from dspy.teleprompt.bootstrap_trace import FailedPrediction, bootstrap_trace_data

    program = GraphModule(edge_stream(over_texts(dspy.Predict("text -> out: int"))), outputs=["out"])
    lm = FakeLM(lambda call: "No fields." if call.inputs["text"] == "bad" else {"out": "7"})
    dataset = [dspy.Example(texts=["1", text, "2"]).with_inputs("texts") for text in ("good", "bad")]
    with dspy.context(lm=lm):
        data = bootstrap_trace_data(
            program,
            dataset,
            metric=lambda *_: 1.0,
            raise_on_error=False,
            capture_failed_parses=True,
            num_threads=2,
        )
    good, bad = data
    assert [inputs["text"] for _, inputs, _ in good["trace"]] == ["1", "good", "2"]
    assert isinstance(bad["prediction"], FailedPrediction)
    failed = [entry for entry in bad["trace"] if isinstance(entry[2], FailedPrediction)]
    assert [predictor is program.predictors()[0] for predictor, _, _ in failed] == [True]


def test_an_interrupted_run() -> None:
    builder = StateGraph(State)
    builder.add_node("node", dspy_node(echo()))
    builder.add_node("ask", lambda state: {"extra": interrupt("?")})
    program = GraphModule(connect(builder, START, "node", "ask", END).compile(checkpointer=InMemorySaver()))
    with (
        dspy.context(lm=FakeLM(model)),
        pytest.raises(GraphError, match=r"called interrupt\(\), and a program runs to its end"),
    ):
        program(text="t")


def test_inputs_that_the_graph_does_not_take() -> None:
    program = GraphModule(graph_of(dspy_node(echo())))
    with pytest.raises(GraphError, match="got 'txt'; the graph takes 'extra', 'out', 'text', 'texts'"):
        program(txt="t")


def test_an_output_that_was_not_written() -> None:
    program = GraphModule(graph_of(dspy_node(echo())), outputs={"answer": "extra"})
    with (
        dspy.context(lm=FakeLM(model)),
        pytest.raises(MissingKeyError, match="did not write the field 'answer'"),
    ):
        program(text="t")


@pytest.mark.parametrize("graph", [None, StateGraph(State), over_texts(len)], ids=["none", "builder", "edge"])
def test_what_is_no_compiled_graph(graph: Any) -> None:
    with pytest.raises(GraphError, match=r"expected a compiled graph. Pass builder.compile\(\)"):
        GraphModule(graph)


def test_a_graph_without_modules() -> None:
    with pytest.raises(GraphError, match="holds no DSPy module; expected nodes made with dspy_node"):
        GraphModule(graph_of(lambda state: {"out": 1}))


def test_outputs_that_the_graph_does_not_give() -> None:
    with pytest.raises(
        GraphError, match="outputs names 'answer'; the graph returns 'extra', 'out', 'text', 'texts'"
    ):
        GraphModule(graph_of(dspy_node(echo())), outputs=["answer"])
    with pytest.raises(
        GraphError,
        match=r"outputs='out' is a string; expected a list of state keys, such as outputs=\['out'\]",
    ):
        GraphModule(graph_of(dspy_node(echo())), outputs="out")


# Modules that functions call by themselves.

predict_everywhere = echo()


def helper(text: str) -> Any:
    return predict_everywhere(text=text)


class WithMethod:
    def __init__(self) -> None:
        self.predict = echo()

    def node(self, state: State) -> Any:
        return {"out": self.predict(text=state["text"]).out}

    def __call__(self, state: State) -> Any:
        return self.node(state)


def closing_over() -> Any:
    predict = echo()
    return lambda state: {"out": predict(text=state["text"]).out}


HIDING: dict[str, Callable[[], Any]] = {
    "closure": closing_over,
    "global": lambda: lambda state: {"out": predict_everywhere(text=state["text"]).out},
    "helper": lambda: lambda state: {"out": helper(state["text"]).out},
    "method": lambda: WithMethod().node,
    "object": WithMethod,
    "operator": lambda: (lambda operator: lambda state: operator(state))(Asks(echo())),
    "partial": lambda: partial(
        lambda state, predict: {"out": predict(text=state["text"]).out}, predict=echo()
    ),
}


@pytest.mark.parametrize("hiding", HIDING)
def test_a_module_that_a_function_calls_by_itself(hiding: str) -> None:
    builder = StateGraph(State)
    builder.add_node("hides", HIDING[hiding]())
    builder.add_node("shows", dspy_node(echo()))
    graph = connect(builder, START, "hides", "shows", END).compile()
    with pytest.raises(
        GraphError, match=r"the node 'hides' calls Predict itself, where.*dspy_node.*frozen=\['hides'\]"
    ):
        GraphModule(graph)
    program = GraphModule(graph, frozen=["hides"])
    assert [name for name, _ in program.named_predictors()] == ["nodes['shows']"]


def test_a_function_that_closes_over_a_name_without_a_value() -> None:
    builder = StateGraph(State)

    def later(state: State) -> Any:
        return {"extra": unset}

    builder.add_node("later", later)
    builder.add_node("shows", dspy_node(echo()))
    program = GraphModule(connect(builder, START, "later", "shows", END).compile())
    unset = 1
    with dspy.context(lm=FakeLM(model)):
        assert program(text="t").extra == unset


def test_a_function_that_decides_where_to_go() -> None:
    decide = dspy_node(echo(), name="decide")
    builder = StateGraph(State)
    builder.add_node("node", dspy_node(echo()))
    builder.add_conditional_edges(
        START, lambda state: decide.invoke(state)["out"], {"0 demos": "node", "1 demos": END}
    )
    builder.add_edge("node", END)
    program = GraphModule(builder.compile())
    assert [name for name, _ in program.named_predictors()] == ["nodes['node']", "nodes['__start__/decide']"]
    with dspy.context(lm=FakeLM(model)):
        assert program(text="t").out == "0 demos"
        program.predictors()[1].demos = [DEMO]
        assert "out" not in program(text="t")


def test_frozen_nodes_keep_the_graphs_modules() -> None:
    builder = StateGraph(State)
    builder.add_node("a", dspy_node(echo(), output_fields={"out": "extra"}))
    builder.add_node("b", dspy_node(TwoParts()))
    graph = connect(builder, START, "a", "b", END).compile()
    program = GraphModule(graph, frozen=["b"])
    assert list(program.nodes) == ["a"]
    with pytest.raises(GraphError, match="frozen names 'c', which has no DSPy module; there are 'a', 'b'"):
        GraphModule(graph, frozen=["c"])
    with pytest.raises(
        GraphError, match=r"frozen='a' is a string; expected a list of nodes, such as frozen=\['a'\]"
    ):
        GraphModule(graph, frozen="a")


def test_two_places_with_one_path() -> None:
    first, second = dspy_node(echo(), name="same"), dspy_node(echo(), name="same")

    def node(state: State) -> Any:
        return second.invoke(first.invoke(state) | {"text": "t"})

    names = [name for name, _ in GraphModule(graph_of(node)).named_predictors()]
    assert names == ["nodes['node/same']", "nodes['node/same_2']"]


def test_what_optimisers_read_of_it_is_its_graph() -> None:
    class Mine(GraphModule):
        pass

    def plain(state: State) -> Any:
        return {"extra": '\\ """'}

    builder = StateGraph(State)
    builder.add_node("node", dspy_node(echo()))
    program = Mine(connect(builder, START, "node", plain, END).compile(), outputs=["extra"])
    source = inspect.getsource(type(program.deepcopy()))
    assert ast.parse(source).body[0].name == "Mine"  # type: ignore[attr-defined]
    for part in ("gives extra", "node -> plain", "def plain(state", "node: Predict(text -> out)"):
        assert part in source
    assert isinstance(program, Mine)
    name = type(program).__module__
    assert name in sys.modules
    del program
    gc.collect()
    assert name not in sys.modules
