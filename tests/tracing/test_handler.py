"""The recommended setup, over the wire: what a graph's trace says with Langfuse's handler is what it says
without it."""

import asyncio
import contextlib
from typing import Any, TypedDict

import dspy
import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tools import tool
from langfuse import Langfuse
from langfuse.langchain import CallbackHandler
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from opentelemetry.sdk.trace import TracerProvider

from mahsm import dspy_node, parallel, reduce_edge, tracing, vmap
from mahsm.reducers import llm_judge_select
from mahsm.testing import FakeLM, LangfuseServer
from mahsm.tracing._cut import bounded
from tests.helpers import MODES, graph_of, run, thread
from tests.tracing.observations import Observed, observed

HANDLERS = (False, True)


def double(state: Any) -> Any:
    return state["item"] * 2


def answering() -> FakeLM:
    return FakeLM(lambda call: dict.fromkeys(call.outputs, "1"))


class State(TypedDict, total=False):
    xs: Any
    ys: Any
    best: Any
    bias: Any


@tool
def add_one(x: int) -> int:
    """Add one."""
    return x + 1


class Finds(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [Document(query)]


# Types.


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_types_are_the_same_with_and_without_the_handler(mode: str, handler: bool) -> None:
    steps = [
        vmap(dspy_node(dspy.Predict("item -> y"), name="ask"), batch_key="xs", out_key="ys", name="fan"),
        parallel({"left": lambda state: {"bias": 1}}, name="both"),
        reduce_edge(input_key="xs", output_key="best", reducer=llm_judge_select(), name="best"),
        reduce_edge(input_key="xs", output_key="bias", reducer=len, name="count"),
    ]
    with observed() as seen, dspy.context(lm=answering()):
        run(graph_of(*steps, state=State), {"xs": ["a", "b"]}, mode, seen.config(handler))
        found = {each.name: each.type for each in seen.all}
        assert found == found | {
            "vmap:fan": "CHAIN",
            "ask": "SPAN",
            "model": "GENERATION",
            "parallel:both": "CHAIN",
            "left": "SPAN",
            "judge:best": "EVALUATOR",
            "reduce:count": "CHAIN",
        }
        assert {each.type for each in seen.named("Predict") if each.path[1] == "ask"} == {"CHAIN"}, (
            "a module of DSPy's"
        )
        assert len(seen.typed("EVALUATOR")) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_handler_of_ones_own_shows_the_same_types(mode: str) -> None:
    judge = reduce_edge(input_key="xs", output_key="best", reducer=llm_judge_select(), name="best")
    with observed() as seen, dspy.context(lm=answering()):
        own = CallbackHandler(public_key=seen.public_key)
        run(
            graph_of(vmap(double, batch_key="xs", out_key="ys"), judge, state=State),
            {"xs": [1, 2]},
            mode,
            {"callbacks": [own]},
        )
        assert (seen.one("judge:best").type, seen.named("double")[0].type) == ("EVALUATOR", "SPAN")


@pytest.mark.parametrize("handler", HANDLERS)
def test_tools_and_retrievers_of_dspy_are_of_their_type(handler: bool) -> None:
    class Asks(dspy.Module):
        def forward(self, item: str) -> Any:
            found = dspy.Retrieve(k=1)(item)
            return dspy.Prediction(y=dspy.Tool(lambda x: x + 1, name="adds")(x=len(found.passages)))

    with observed() as seen, dspy.context(rm=lambda query, k: [dspy.Example(long_text=query)]):
        edge = vmap(Asks(), batch_key="xs", out_key="ys", name="fan")
        run(graph_of(edge), {"xs": ["a"]}, "sync", seen.config(handler))
        retrieved = seen.one("Retrieve")
        assert (retrieved.type, retrieved.path[:2]) == ("RETRIEVER", ["Retrieve", "Asks"])
        assert "a" in str(retrieved.row["input"])
        assert seen.one("adds").type == "TOOL"


@pytest.mark.parametrize("mode", MODES)
def test_tools_and_retrievers_of_langchain_are_of_their_type(mode: str) -> None:
    def asks(state: Any, config: Any) -> Any:
        return add_one.invoke({"x": len(Finds().invoke("a", config))}, config)

    with observed() as seen:
        run(
            graph_of(vmap(asks, batch_key="xs", out_key="ys", name="fan")),
            {"xs": [1]},
            mode,
            seen.config(True),
        )
        assert (seen.one("Finds").type, seen.one("add_one").type) == ("RETRIEVER", "TOOL")
        assert seen.one("add_one").path[1:3] == ["asks", "vmap:fan"]


# Errors.

ERRORS = [
    (ValueError("boom"), "ValueError: boom"),
    (KeyError("k"), "KeyError: 'k'"),
    (RuntimeError(), "RuntimeError"),
    (ConnectionError("key sk-PLANTED0123"), "ConnectionError: key sk-***"),
]


def raising(error: BaseException) -> Any:
    def fails(state: Any) -> Any:
        raise error

    return fails


def failed(seen: Observed) -> dict[str, str | None]:
    return {each.name: each.status for each in seen.all if each.level == "ERROR"}


@pytest.mark.parametrize(("error", "text"), ERRORS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("mode", MODES)
def test_errors_have_one_form_with_and_without_the_handler(mode: str, error: Exception, text: str) -> None:
    edge = vmap(raising(error), batch_key="xs", out_key="ys", name="fan")
    for handler in HANDLERS:
        with observed() as seen:
            with pytest.raises(type(error)):
                run(graph_of(edge), {"xs": [1]}, mode, seen.config(handler))
            ours = {"fails": text, "vmap:fan": text}
            assert failed(seen) == ours | ({"fan": text, "LangGraph": text} if handler else {})


@pytest.mark.parametrize("mode", MODES)
def test_so_have_those_of_tools_and_retrievers(mode: str) -> None:
    class Breaks(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            raise ValueError("no index")

    @tool
    def broken(x: int) -> int:
        """Fail."""
        raise KeyError(x)

    def asks(state: Any, config: Any) -> None:
        with contextlib.suppress(KeyError):
            broken.invoke({"x": 1}, config)
        with contextlib.suppress(ValueError):
            Breaks().invoke("a", config)

    with observed() as seen:
        run(graph_of(vmap(asks, batch_key="xs", out_key="ys")), {"xs": [1]}, mode, seen.config(True))
        assert failed(seen) == {"broken": "KeyError: 1", "Breaks": "ValueError: no index"}


@pytest.mark.parametrize("handler", [False, True, "own"])
@pytest.mark.parametrize("mode", MODES)
def test_an_edge_that_fails_alone_with_a_handler_is_sent_once(mode: str, handler: bool | str) -> None:
    edge = vmap(raising(ValueError("boom")), batch_key="xs", out_key="ys", name="fan")
    with observed() as seen:
        config = (
            {"callbacks": [CallbackHandler(public_key=seen.public_key)]}
            if handler == "own"
            else seen.config(bool(handler))
        )
        with pytest.raises(ValueError, match="boom"):
            run(edge, {"xs": [1]}, mode, config)
        assert [(each.name, each.status) for each in seen.all] == [
            ("fails", "ValueError: boom"),
            ("vmap:fan", "ValueError: boom"),
        ]


def without_cards(*, data: Any, **_: Any) -> Any:
    if isinstance(data, dict):
        return {key: without_cards(data=value) for key, value in data.items()}
    if isinstance(data, list):
        return [without_cards(data=value) for value in data]
    return data.replace("4111-1111", "****") if isinstance(data, str) else data


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_the_mask_holds_for_errors(mode: str, handler: bool) -> None:
    def refuses(state: Any) -> Any:
        raise ValueError(f"card {state['item']} is refused")

    with observed(mask=without_cards) as seen:
        with pytest.raises(ValueError, match="4111-1111"):
            run(
                graph_of(vmap(refuses, batch_key="xs", out_key="ys", name="fan")),
                {"xs": ["4111-1111"]},
                mode,
                seen.config(handler),
            )
        assert set(failed(seen).values()) == {"ValueError: card **** is refused"}
        assert "4111-1111" not in str(seen.server.spans)


def test_a_mask_that_fails_shows_nothing_of_an_error() -> None:
    def broken(*, data: Any, **_: Any) -> Any:
        raise ValueError("no mask")

    with observed(mask=broken) as seen:
        with pytest.raises(ValueError, match="secret of mine"):
            vmap(raising(ValueError("secret of mine")), batch_key="xs", out_key="ys").invoke({"xs": [1]})
        assert len(failed(seen)) == 2
        assert "secret of mine" not in str(seen.server.spans)


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_with_the_handler_is_no_error(mode: str) -> None:
    def asks(state: Any) -> Any:
        return interrupt(state["item"])

    graph = graph_of(
        vmap(asks, batch_key="xs", out_key="ys", name="fan", chunk_size=1), checkpointer=InMemorySaver()
    )
    with observed() as seen:
        config = thread() | seen.config(True)
        run(graph, {"xs": [1]}, mode, config)
        assert run(graph, Command(resume="yes"), mode, config)["ys"] == ["yes"]
        assert failed(seen) == {}
        stopped, resumed = seen.named("fan")
        assert (str(stopped.status)[:11], stopped.level, resumed.status) == (
            "(Interrupt(",
            "DEFAULT",
            None,
        ), "as Langfuse shows it"


# Sizes.


@pytest.mark.parametrize("mode", MODES)
def test_states_are_cut_in_spans_of_langgraph(mode: str) -> None:
    edge = vmap(double, batch_key="xs", out_key="ys", name="fan")
    with observed() as seen:
        assert len(run(graph_of(edge), {"xs": ["x" * 20_000] * 30}, mode, seen.config(True))["ys"]) == 30
        sizes = {each.name: len(str(each.row["input"])) + len(str(each.row["output"])) for each in seen.all}
        assert {"LangGraph", "fan", "vmap:fan"} < set(sizes)
        assert max(sizes.values()) < 110_000, "of 600,000 characters in, and twice as many out"


@pytest.mark.parametrize("mode", MODES)
def test_small_states_are_shown_as_they_are(mode: str) -> None:
    with observed() as seen:
        run(
            graph_of(vmap(double, batch_key="xs", out_key="ys", name="fan")),
            {"xs": list(range(300))},
            mode,
            seen.config(True),
        )
        assert seen.one("LangGraph").row["input"] == f'{{"xs": {list(range(300))}}}'
        assert "(300 entries)" in seen.one("vmap:fan").row["input"]


def test_states_that_are_large_in_other_ways_are_cut() -> None:
    around: list[Any] = []
    around.append(around)
    assert bounded(np.zeros(100_001)) == "float64[100001]"
    assert bounded({"xs": np.zeros(3)})["xs"].shape == (3,)
    assert bounded([b"x" * 100_001]) == ["bytes[100001]"]
    assert isinstance(bounded(around), list)


def test_what_short_cuts_is_cut_by_a_handler_of_ones_own() -> None:
    with observed(mask=tracing.short) as seen:
        own = CallbackHandler(public_key=seen.public_key)
        graph_of(vmap(double, batch_key="xs", out_key="ys")).invoke(
            {"xs": ["x" * 20_000] * 30}, {"callbacks": [own]}
        )
        assert max(len(str(each.row["input"])) for each in seen.all) < 60_000


# Projects.


@pytest.mark.parametrize("own", HANDLERS)
@pytest.mark.parametrize("mode", MODES)
def test_a_run_with_a_handler_of_another_project_is_all_in_that_project(mode: str, own: bool) -> None:
    edge = vmap(dspy.Predict("item -> y"), batch_key="xs", out_key="ys", name="fan")
    with observed() as theirs:
        handler = CallbackHandler(public_key=theirs.public_key) if own else theirs.handler
        with observed(scores=True) as mine, dspy.context(lm=answering()):
            run(graph_of(edge), {"xs": ["a", "b"]}, mode, {"callbacks": [handler]})
            assert (mine.all, mine.scores) == ([], [])
            run(edge, {"xs": ["a"]}, mode)
            assert {each.name for each in mine.all} == {"vmap:fan", "Predict", "model"}
        theirs.client.flush()
        assert len(theirs.all) == 2 + 1 + 3 * 2, "LangGraph's, the edge, and of each item three"
        assert len({each.row["traceId"] for each in theirs.all}) == 1
        assert theirs.scores == [("mahsm.error_rate", 0.0)]


def test_a_run_with_a_handler_is_in_its_project_whatever_opentelemetry_gets() -> None:
    with observed() as seen, dspy.context(lm=answering()):
        tracing.use_otel(TracerProvider())
        edge = vmap(dspy.Predict("item -> y"), batch_key="xs", out_key="ys", name="fan")
        graph_of(edge).invoke({"xs": ["a"]}, seen.config(True))
        seen.client.flush()
        assert seen.one("model").path == ["model", "Predict", "Predict", "vmap:fan", "fan", "LangGraph"]


def test_the_handler_of_a_client_that_there_is() -> None:
    with LangfuseServer() as server:
        client = Langfuse(public_key="pk-handler-of-mine", secret_key="sk", base_url=server.url)
        tracing.use(client)
        with pytest.raises(ValueError, match="boom"):
            graph_of(vmap(raising(ValueError("boom")), batch_key="xs", out_key="ys", name="fan")).invoke(
                {"xs": [1]}, {"callbacks": [tracing.handler()]}
            )
        tracing.flush()
        tracing.off()
        assert {each["name"]: each["statusMessage"] for each in server.observations} == dict.fromkeys(
            ["fails", "vmap:fan", "fan", "LangGraph"], "ValueError: boom"
        )
    with pytest.raises(RuntimeError, match=r"tracing\.handler needs Langfuse: call tracing\.init\(\)"):
        tracing.handler()


# Roots.


@pytest.mark.parametrize("mode", MODES)
def test_the_first_edge_of_a_run_names_its_trace(mode: str) -> None:
    steps = [vmap(double, batch_key="xs", out_key="ys", name=name) for name in ("first", "second", "third")]
    with observed() as seen:
        run(graph_of(*steps), {"xs": [1]}, mode)
        edges = [each for each in seen.all if each.type == "CHAIN"]
        assert len({each.row["traceId"] for each in edges}) == 1
        assert [each.name for each in edges if each.row["isRootObservation"]] == ["vmap:first"]
        assert all(each.parent is None for each in edges), "the others stand beside it"


@pytest.mark.parametrize("mode", MODES)
def test_the_run_names_its_trace_if_it_has_a_name(mode: str) -> None:
    graph = graph_of(vmap(double, batch_key="xs", out_key="ys", name="first"))
    with observed() as seen:
        run(graph, {"xs": [1]}, mode, {"metadata": {"langfuse_trace_name": "nightly"}})
        run(graph, {"xs": [1]}, mode, {"run_name": "nightly", **seen.config(True)})
        first, second = seen.named("vmap:first")
        assert (first.row["traceName"], second.path[-1]) == ("nightly", "nightly")


def test_runs_at_once_have_a_trace_each_of_which_one_edge_is_the_root() -> None:
    graph = graph_of(*(vmap(double, batch_key="xs", out_key="ys", name=name) for name in ("first", "second")))

    async def all_of() -> None:
        await asyncio.gather(*(graph.ainvoke({"xs": [1]}) for _ in range(5)))  # noqa: TID251

    with observed() as seen:
        asyncio.run(all_of())
        roots = [each for each in seen.all if each.row["isRootObservation"]]
        assert [each.name for each in roots] == ["vmap:first"] * 5
        assert len({each.row["traceId"] for each in seen.all}) == 5


def test_two_edges_that_begin_together_have_one_root() -> None:
    builder: Any = StateGraph(State)
    for name, key in {"left": "ys", "right": "best"}.items():
        builder.add_node(name, vmap(double, batch_key="xs", out_key=key, name=name))
        builder.add_edge(START, name)
        builder.add_edge(name, END)
    graph = builder.compile()
    with observed() as seen:
        for mode in MODES * 20:
            run(graph, {"xs": [1]}, mode)
        assert len([each for each in seen.all if each.row["isRootObservation"]]) == 40
        assert len({each.row["traceId"] for each in seen.all}) == 40
