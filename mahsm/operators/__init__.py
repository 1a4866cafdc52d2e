"""Operators: units of work built on Equinox that serve as LangGraph nodes, edge targets and DSPy modules.

- `_operator`    `Operator`
- `_operator_fields`, `_annotations`  its fields, and which of them are static for JAX
- `_specs`       checks of inputs and outputs; `_shapes`: shapes of arrays in them
- `_op`, `_signatures`, `_model`, `_learnable`, `_composites`, `_router`, `_hybrid`  kinds of operators
- `_trees`       operators as trees: `partition`, `parameters`
- `_files`       operators in files: `save`, `load`
- `_registry`    operators by name: `register`, `get`
- `_threads`     blocking calls in threads, concurrently
- `_modules`     DSPy modules in the fields of operators
- `_io`, `_operator_node`, `_as_dspy`  operators behind state keys, and behind the arguments of DSPy modules
- `_internal`    exports for `GraphModule`
"""

from typing import TYPE_CHECKING, Any

from mahsm._lazy import attach

try:
    import equinox as _  # noqa: F401
except ImportError as _missing:
    raise ImportError(
        "mahsm.operators needs JAX and Equinox, which are not installed: pip install 'mahsm[jax]'"
    ) from _missing

from mahsm._models import ModelBinding as ModelBinding
from mahsm.operators._composites import ChainOperator as ChainOperator
from mahsm.operators._composites import EnsembleOperator as EnsembleOperator
from mahsm.operators._files import load as load
from mahsm.operators._files import save as save
from mahsm.operators._hybrid import HybridOperator as HybridOperator
from mahsm.operators._learnable import LearnableOperator as LearnableOperator
from mahsm.operators._model import ModelOperator as ModelOperator
from mahsm.operators._op import FunctionOperator as FunctionOperator
from mahsm.operators._op import ModuleOperator as ModuleOperator
from mahsm.operators._op import op as op
from mahsm.operators._operator import Operator as Operator
from mahsm.operators._operator_fields import model_field as model_field
from mahsm.operators._operator_fields import param as param
from mahsm.operators._operator_fields import prompt_field as prompt_field
from mahsm.operators._operator_fields import spec_field as spec_field
from mahsm.operators._operator_node import OperatorNode as OperatorNode
from mahsm.operators._operator_node import operator_node as operator_node
from mahsm.operators._registry import get as get
from mahsm.operators._registry import register as register
from mahsm.operators._router import RouterOperator as RouterOperator
from mahsm.operators._trees import Rest as Rest
from mahsm.operators._trees import combine as combine
from mahsm.operators._trees import parameters as parameters
from mahsm.operators._trees import partition as partition

if TYPE_CHECKING:
    from mahsm.operators._as_dspy import OperatorModule as OperatorModule
    from mahsm.operators._as_dspy import as_dspy as as_dspy

__all__ = [
    "ChainOperator",
    "EnsembleOperator",
    "FunctionOperator",
    "HybridOperator",
    "LearnableOperator",
    "ModelBinding",
    "ModelOperator",
    "ModuleOperator",
    "Operator",
    "OperatorModule",
    "OperatorNode",
    "Rest",
    "RouterOperator",
    "as_dspy",
    "combine",
    "get",
    "load",
    "model_field",
    "op",
    "operator_node",
    "param",
    "parameters",
    "partition",
    "prompt_field",
    "register",
    "save",
    "spec_field",
]
_HOMES = {"OperatorModule": "mahsm.operators._as_dspy", "as_dspy": "mahsm.operators._as_dspy"}


def __getattr__(name: str) -> Any:
    return attach(__name__, _HOMES, name)
