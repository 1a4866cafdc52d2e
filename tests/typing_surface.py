"""Read by the type checker only: what users write has the types that they expect."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, assert_type

from langgraph.graph import END, START, StateGraph

import mahsm
from mahsm import (
    Branch,
    Budget,
    Edge,
    GraphModule,
    ItemError,
    Ledger,
    RateLimit,
    Response,
    Retry,
    budget,
    connect,
    dspy_node,
    dspy_program,
    fuse,
    is_item_error,
    jit_edge,
    limits,
    models,
    op,
    operator_node,
    parallel,
    reduce_edge,
    tracing,
    usage,
    vmap,
)
from mahsm.context import Context, create_context, get_context, with_context
from mahsm.edges import JitEdge, VmapOptions
from mahsm.limits import LimitStats
from mahsm.nodes import DSPyNode
from mahsm.operators import (
    ChainOperator,
    FunctionOperator,
    ModelBinding,
    OperatorNode,
    Rest,
    RouterOperator,
    partition,
)
from mahsm.policies import Spending
from mahsm.reducers import first, llm_judge_select, mean, rank_fusion, score_and_select, top_k, tree_reduce
from mahsm.testing import Call, FakeLM


class State(TypedDict):
    """A state."""

    xs: list[int]
    ys: list[int]


def double(state: dict[str, Any]) -> int:
    """A target."""
    return state["item"] * 2


edge = vmap(double, batch_key="xs", out_key="ys", on_error="collect")
assert_type(edge, Edge)
assert_type(reduce_edge(input_key="ys", output_key="y", reducer=sum), Edge)
assert_type(mahsm.vmap(edge, batch_key="rows", out_key="table"), Edge)

builder: StateGraph[State, None, State, State] = StateGraph(State)
assert_type(connect(builder, START, edge, END), StateGraph[State, None, State, State])

assert_type(top_k([1, 2], k=1), list[int])
assert_type(score_and_select([{"a": 1}], score_key="a"), dict[str, int])
assert_type(mean([1, 2]), float)
assert_type(mean(key="score"), Callable[[Sequence[Any]], float])
assert_type(first([1, 2], k=1), list[int])
assert_type(rank_fusion([["a"], ["b"]]), list[str])

limit = RateLimit("openai", rps=50, burst=10, tpm=200_000, key="model", retry=Retry(attempts=3))
assert_type(
    vmap(double, batch_key="xs", out_key="ys", rate_limit=limit, budget=Budget(usd=1), stop_when=first(k=2)),
    Edge,
)
assert_type(
    vmap(double, batch_key="xs", out_key="ys", rate_limit={"provider": "openai", "rps": 5}, adaptive=(2, 8)),
    Edge,
)
assert_type(
    parallel({"a": double, "b": Branch(edge, after="a", retry=Retry())}, scheduler="wave", eager=True), Edge
)
assert_type(limits.stats(), dict[str, LimitStats])
with budget(tokens=100) as spent:
    assert_type(spent, Spending)


def failed(entry: int | ItemError) -> str:
    """`is_item_error` narrows to an `ItemError`."""
    return entry["message"] if is_item_error(entry) else "fine"


def scaled(x: Any) -> Any:
    """A numeric function."""
    return x * 2


scale = jit_edge(scaled, in_keys=["x"], out_key="y", static_keys=(), ragged=(), x64=True, output="python")
assert_type(scale, JitEdge)
assert_type(fuse(scale, scale, keep=["y"]), JitEdge)
assert_type(vmap(scale, batch_key="xs", out_key="ys"), Edge)
assert_type(scale.stats.compiles, int)
assert_type(scale.with_(x64=False, keep=["y"]), JitEdge)
scale.with_(x46=True)  # pyright: ignore[reportCallIssue]
assert_type(edge.with_(max_concurrency=2), Edge)
careful: VmapOptions = {"max_concurrency": 2, "retry": Retry(), "timeout": 10.0}
assert_type(vmap(double, batch_key="xs", out_key="ys", **careful), Edge)
assert_type(tree_reduce([1, 2], merge=double, **careful), Any)
tree_reduce(merge=double, max_concurrency="2")  # pyright: ignore[reportCallIssue, reportArgumentType]
llm_judge_select(criteria="short", retires=3)  # pyright: ignore[reportCallIssue]


@op(input_spec=int)
def doubled(number: int) -> int:
    """An operator."""
    return number * 2


assert_type(doubled, FunctionOperator)
assert_type(operator_node(doubled, input_fields="x", output_fields="y"), OperatorNode)
router = RouterOperator({"a": doubled}, 2)
assert_type(partition(router), tuple[RouterOperator, Rest])
assert_type(router.update_params(feature_key="f"), RouterOperator)
assert_type(ChainOperator([doubled, router]).awaits, bool)


@tracing.observe
def traced(number: int) -> str:
    """A step."""
    return str(number)


@tracing.observe(name="step")
async def traced_later(number: int) -> str:
    """A step with a name."""
    return str(number)


assert_type(traced(1), str)
assert_type(asyncio.run(traced_later(1)), str)


program = GraphModule(builder.compile(), outputs={"answer": "ys"})
assert_type(program.apply(), Any)
assert_type(program.deepcopy(), GraphModule)
with usage({"my-model": (0.15, 0.6)}) as used:
    assert_type(used, Ledger)
    assert_type(used.by_node["answer"].tokens, int)
    assert_type(used.runs[0].usage.usd, float)
assert_type(vmap(double, sample=3, out_key="ys"), Edge)
node = dspy_node(program, stream=True, prefix="draft_", input_transform=lambda state: {"xs": state["xs"]})
assert_type(node, DSPyNode)
assert_type(dspy_program(program), StateGraph[Any, Any, Any, Any])
assert_type(FakeLM(lambda call: {"answer": call.inputs["question"]}).calls, list[Call])

response = models("openai/gpt-4o-mini", "Hello", temperature=0.5)
assert_type(response, Response)
assert_type(models("Hello"), Response)
assert_type(models(None, [("user", "Hello")], system="Be brief.", output=float), Response)
assert_type(response.usage.tokens, int)
assert_type(response.cost, float | None)
assert_type(f"{response}" + response.text, str)
assert_type(asyncio.run(models.acall("openai/gpt-4o-mini", "Hello")), Response)
binding = models.instance("openai/gpt-4o-mini", temperature=0.5)
assert_type(binding, ModelBinding)
assert_type(binding("Hello"), Response)
assert_type(list(binding.stream("Hello")), list[str])
assert_type(models.stream("openai/gpt-4o-mini", "Hello").response, Response)
assert_type(models.list("openai"), list[str])
assert_type(vmap(binding, batch_key="xs", out_key="ys"), Edge)
with with_context(models={"default": "gpt-4"}) as context:
    assert_type(context, Context)
    assert_type(get_context().get_credential("openai"), str | None)
with create_context(credentials={"openai_api_key": "sk-1"}) as child:
    assert_type(child, Context)
