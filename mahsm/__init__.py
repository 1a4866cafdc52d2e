"""Special edges for LangGraph: fan-out, fan-in, compiled numerics, and tools around them.

- `edges`     `vmap`, `parallel`, `reduce_edge`, `jit_edge`
- `graph`     `connect`
- `compose`   `chain`, `ensemble`, `retry`, `timeout`, `cache`, `policy_router`
- `nodes`     `dspy_node`
- `operators` `Operator`, `op`, `operator_node`: models, prompts and arrays in one tree
- `xcs`       `jit`, `step`, `vmap`, `grad`: functions that run ahead of themselves
- `learn`     `Router`, `evaluate`: routing that learns from rewards
- `reducers`  functions from a list to one value
- `models`    direct calls of models: `models("openai/gpt-4o-mini", "Hello")`
- `context`   `create_context`, `get_config`: settings and credentials
- `data`      `stream`: rows of files and iterables as a batch; `sinks`: results in files
- `limits`    `RateLimit`: rate limits of providers
- `policies`  `Retry`, `Budget`, `ItemError`: retries, spending, and failures of items
- `errors`    all errors that mahsm itself raises
- `tracing`   spans of edge runs in Langfuse or any OpenTelemetry backend
- `testing`   models, servers and a clock for tests
- `cli`       the `mahsm` command

Names are imported when they are first used, so `import mahsm` is fast.
"""

from typing import TYPE_CHECKING, Any

from mahsm._lazy import attach

if TYPE_CHECKING:
    from mahsm import cli as cli
    from mahsm import compose as compose
    from mahsm import context as context
    from mahsm import data as data
    from mahsm import edges as edges
    from mahsm import errors as errors
    from mahsm import graph as graph
    from mahsm import learn as learn
    from mahsm import limits as limits
    from mahsm import nodes as nodes
    from mahsm import operators as operators
    from mahsm import policies as policies
    from mahsm import reducers as reducers
    from mahsm import testing as testing
    from mahsm import tracing as tracing
    from mahsm import xcs as xcs
    from mahsm._model_calls import EdgeUsage as EdgeUsage
    from mahsm._model_calls import Ledger as Ledger
    from mahsm._model_calls import Usage as Usage
    from mahsm._model_calls import usage as usage
    from mahsm._models import Response as Response
    from mahsm._models import models as models
    from mahsm._progress import progress as progress
    from mahsm.compose import cache as cache
    from mahsm.compose import chain as chain
    from mahsm.compose import ensemble as ensemble
    from mahsm.compose import policy_router as policy_router
    from mahsm.compose import retry as retry
    from mahsm.compose import timeout as timeout
    from mahsm.edges import Branch as Branch
    from mahsm.edges import Edge as Edge
    from mahsm.edges import fuse as fuse
    from mahsm.edges import jit_edge as jit_edge
    from mahsm.edges import parallel as parallel
    from mahsm.edges import reduce_edge as reduce_edge
    from mahsm.edges import vmap as vmap
    from mahsm.graph import DSPySerializer as DSPySerializer
    from mahsm.graph import GraphModule as GraphModule
    from mahsm.graph import connect as connect
    from mahsm.graph import dspy_program as dspy_program
    from mahsm.limits import RateLimit as RateLimit
    from mahsm.nodes import dspy_node as dspy_node
    from mahsm.operators import Operator as Operator
    from mahsm.operators import op as op
    from mahsm.operators import operator_node as operator_node
    from mahsm.policies import BatchAPI as BatchAPI
    from mahsm.policies import Budget as Budget
    from mahsm.policies import ItemError as ItemError
    from mahsm.policies import Retry as Retry
    from mahsm.policies import budget as budget
    from mahsm.policies import is_item_error as is_item_error

__version__ = "0.8.0"

_HOMES = {
    "Branch": "mahsm.edges",
    "BatchAPI": "mahsm.policies",
    "Budget": "mahsm.policies",
    "DSPySerializer": "mahsm.graph",
    "Edge": "mahsm.edges",
    "EdgeUsage": "mahsm._model_calls",
    "GraphModule": "mahsm.graph",
    "ItemError": "mahsm.policies",
    "Ledger": "mahsm._model_calls",
    "RateLimit": "mahsm.limits",
    "Response": "mahsm._models",
    "Retry": "mahsm.policies",
    "Usage": "mahsm._model_calls",
    "budget": "mahsm.policies",
    "cache": "mahsm.compose",
    "chain": "mahsm.compose",
    "cli": "mahsm.cli",
    "compose": "mahsm.compose",
    "connect": "mahsm.graph",
    "context": "mahsm.context",
    "data": "mahsm.data",
    "dspy_node": "mahsm.nodes",
    "dspy_program": "mahsm.graph",
    "edges": "mahsm.edges",
    "ensemble": "mahsm.compose",
    "errors": "mahsm.errors",
    "fuse": "mahsm.edges",
    "graph": "mahsm.graph",
    "jit_edge": "mahsm.edges",
    "learn": "mahsm.learn",
    "limits": "mahsm.limits",
    "is_item_error": "mahsm.policies",
    "Operator": "mahsm.operators",
    "models": "mahsm._models",
    "nodes": "mahsm.nodes",
    "op": "mahsm.operators",
    "operator_node": "mahsm.operators",
    "operators": "mahsm.operators",
    "parallel": "mahsm.edges",
    "policies": "mahsm.policies",
    "policy_router": "mahsm.compose",
    "progress": "mahsm._progress",
    "reduce_edge": "mahsm.edges",
    "reducers": "mahsm.reducers",
    "retry": "mahsm.compose",
    "testing": "mahsm.testing",
    "timeout": "mahsm.compose",
    "tracing": "mahsm.tracing",
    "usage": "mahsm._model_calls",
    "vmap": "mahsm.edges",
    "xcs": "mahsm.xcs",
}

# The keys of `_HOMES`, spelled out for type checkers.
__all__ = [
    "BatchAPI",
    "Branch",
    "Budget",
    "DSPySerializer",
    "Edge",
    "EdgeUsage",
    "GraphModule",
    "ItemError",
    "Ledger",
    "Operator",
    "RateLimit",
    "Response",
    "Retry",
    "Usage",
    "budget",
    "cache",
    "chain",
    "cli",
    "compose",
    "connect",
    "context",
    "data",
    "dspy_node",
    "dspy_program",
    "edges",
    "ensemble",
    "errors",
    "fuse",
    "graph",
    "is_item_error",
    "jit_edge",
    "learn",
    "limits",
    "models",
    "nodes",
    "op",
    "operator_node",
    "operators",
    "parallel",
    "policies",
    "policy_router",
    "progress",
    "reduce_edge",
    "reducers",
    "retry",
    "testing",
    "timeout",
    "tracing",
    "usage",
    "vmap",
    "xcs",
]


def __getattr__(name: str) -> Any:
    return attach(__name__, _HOMES, name)


def __dir__() -> list[str]:
    return __all__
