"""The source that optimisers show to models: for a `GraphModule` it describes the graph, not the class."""

import inspect
import itertools
import linecache
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator, Mapping
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, TypeVar, cast

import dspy

from mahsm.nodes._internal import Node

KindT = TypeVar("KindT", bound=type[Any])
_numbers = itertools.count(1)


def with_source(kind: KindT, source: Callable[[], str]) -> KindT:
    """Return a subclass of the same name with another source for `inspect.getsource`.

    Args:
        kind: The class.
        source: Returns the source, which defines a class of that name; called when the source is read.
    """
    name = f"{kind.__module__}.graph_{next(_numbers)}"
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, _Loader(source))
    module.__file__ = f"{name}.py"
    # `inspect` looks up the module of a class here.
    sys.modules[name] = module
    names = {"__module__": name, "__qualname__": kind.__name__, "__doc__": kind.__doc__, "__firstlineno__": 1}
    made = cast("KindT", cast("Any", type(kind))(kind.__name__, (kind,), names))
    weakref.finalize(made, _forget, name)
    return made


class _Loader(InspectLoader):
    def __init__(self, source: Callable[[], str]) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:
        return self._source()


def _forget(name: str) -> None:
    sys.modules.pop(name, None)
    linecache.cache.pop(f"{name}.py", None)


def source_of(name: str, graph: Any, modules: Mapping[str, dspy.Module], takes: Any, gives: Any) -> str:
    """Return the source of a class that describes a graph: steps, nodes, and signatures of modules."""
    drawn = graph.get_graph()
    nodes = ((node, one.data) for node, one in drawn.nodes.items() if not node.startswith("__"))
    parts = [
        f"A graph that takes {_listed(takes)} and gives {_listed(gives)}.",
        "Steps:\n" + _indented(_steps(drawn.edges)),
        "Nodes:\n" + _indented(f"{node}: {_described(data)}" for node, data in nodes),
        "Modules:\n"
        + _indented(line for path, module in modules.items() for line in _signatures(path, module)),
    ]
    text = "\n\n".join(parts).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'class {name}(dspy.Module):\n    """{textwrap.indent(text, "    ").strip()}\n    """\n'


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) if names else "any keys"


def _indented(lines: Any) -> str:
    return textwrap.indent("\n".join(lines), "    ")


def _steps(edges: list[Any]) -> Iterator[str]:
    for source, group in itertools.groupby(edges, key=lambda edge: edge.source):
        yield f"{source} -> {' or '.join(edge.target for edge in group)}".replace("__", "")


def _described(data: Any) -> str:
    if isinstance(data, Node):
        return repr(data)
    function = getattr(data, "func", None) or getattr(data, "afunc", None)
    if function is None:
        return type(data).__name__
    try:
        return textwrap.dedent(inspect.getsource(function)).strip()
    except (OSError, TypeError):
        return getattr(function, "__name__", type(function).__name__)


def _signatures(path: str, module: dspy.Module) -> Iterator[str]:
    for name, predictor in cast("list[tuple[str, Any]]", module.named_predictors()):
        signature = predictor.signature
        fields = [
            ", ".join(map(_field, part.items())) for part in (signature.input_fields, signature.output_fields)
        ]
        where = path if name == "self" else f"{path}.{name}"
        yield f"{where}: {type(module).__name__}({' -> '.join(fields)})"
        yield textwrap.indent(signature.instructions, "    ")


def _field(field: tuple[str, Any]) -> str:
    name, info = field
    kind = info.annotation
    return (
        name
        if kind is str
        else f"{name}: {getattr(kind, '__name__', kind) if isinstance(kind, type) else kind}"
    )
