"""Crossing to workers: language models without their keys, and refusals of what must not or cannot cross."""

import hashlib
import importlib
import io
import os
import platform
import sys
import sysconfig
from types import FunctionType, ModuleType
from typing import Any, cast

import cloudpickle
from langgraph.pregel.protocol import PregelProtocol
from pydantic import SecretStr

import mahsm
from mahsm.errors import EdgeError
from mahsm.nodes._internal import model_elsewhere

_OWN = ("mahsm", "langgraph", "langchain_core", "dspy")


def versions() -> dict[str, str]:
    """Return the versions that have to be the same in a worker."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"mahsm": mahsm.__version__, "python": python, "cloudpickle": cloudpickle.__version__}


def packed(edge: str, program: object) -> tuple[bytes, dict[str, str]]:
    """Return a program as bytes, and the digests of the modules whose functions it names.

    Raises:
        EdgeError: if something in it cannot be sent, or must not be.
    """
    out = io.BytesIO()
    pickler = _Pickler(edge, out)
    try:
        pickler.dump(program)
    except EdgeError:
        raise
    except Exception as error:
        raise EdgeError(
            f"{edge}: the target cannot be sent to workers: {type(error).__name__}: {error}. Make what it "
            "needs inside of it, or in a module that workers import."
        ) from error
    found = out.getvalue()
    for name, value in os.environ.items():
        if _is_secret(name) and len(value) >= _SECRET_LENGTH and value.encode() in found:
            raise EdgeError(
                f"{edge}: the target holds the value of {name}, which must not be sent to workers. Read it "
                "inside of the target, from the worker's environment."
            )
    return found, pickler.modules


_SECRET_LENGTH = 8


def _is_secret(name: str) -> bool:
    return name.upper().endswith(("KEY", "TOKEN", "SECRET", "PASSWORD"))


class _Pickler(cloudpickle.Pickler):
    """Sends functions by value or name, language models without their keys, and refuses what cannot work."""

    def __init__(self, edge: str, out: io.BytesIO) -> None:
        super().__init__(out, protocol=5)
        self._edge = edge
        self.modules: dict[str, str] = {}

    def reducer_override(self, obj: Any) -> Any:
        if (model := model_elsewhere(obj)) is not None:
            return model
        if isinstance(obj, PregelProtocol):
            raise EdgeError(f"{self._edge}: {_no_graph('the target holds', obj)}")
        if isinstance(obj, SecretStr):
            raise EdgeError(
                f"{self._edge}: the target holds a secret, which must not be sent to workers. Make its "
                "client inside of the target, with the key of the worker's environment."
            )
        if isinstance(obj, FunctionType | type):
            self._note(obj)
        return cast("Any", super()).reducer_override(obj)

    def _note(self, obj: Any) -> None:
        """Note the module of a function or class that is sent by its name."""
        name: str = getattr(obj, "__module__", None) or ""
        module = sys.modules.get(name)
        if module is None or name == "__main__" or name in self.modules or name.split(".")[0] in _OWN:
            return
        digest = digest_of(module)
        if digest:
            self.modules[name] = digest


def _no_graph(what: str, graph: Any) -> str:
    name = graph.get_name() if hasattr(graph, "get_name") else type(graph).__name__
    return (
        f"{what} the compiled graph or edge {name!r}, which cannot be sent to workers. Pass its StateGraph, "
        "or where it is: 'package.module:graph'."
    )


def refuse_graph(edge: str, target: object) -> None:
    """Refuse a compiled graph or an edge as the target.

    Raises:
        EdgeError: that says what to pass.
    """
    if isinstance(target, PregelProtocol) or type(target).__module__.startswith("mahsm.edges"):
        raise EdgeError(f"{edge}: {_no_graph('executor= with', target)}")


_digests: dict[str, tuple[object, str]] = {}


def digest_of(module: ModuleType) -> str:
    """Return a digest of a module's source; "" for one that is installed, or has none.

    It is that of the source when it was first asked for, until the module is loaded again: what counts is the
    code that runs, and not what its file holds by now.
    """
    loaded, found = _digests.get(module.__name__, (None, ""))
    if loaded is None or loaded is not module.__spec__:
        found = _digest_of_source(module)
        _digests[module.__name__] = module.__spec__, found
    return found


def _digest_of_source(module: ModuleType) -> str:
    path = getattr(module, "__file__", None)
    installed = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib"))
    if not path or not path.endswith(".py") or path.startswith(installed):
        return ""
    try:
        with open(path, "rb") as file:
            return hashlib.blake2b(file.read(), digest_size=16).hexdigest()
    except OSError:
        return ""


def named(edge: str, name: str) -> Any:
    """Return what `"package.module:name"` names.

    Raises:
        EdgeError: if there is no such thing.
    """
    module, _, path = name.partition(":")
    if not path:
        raise EdgeError(f"{edge}: the target is {name!r}; expected 'package.module:name'.")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise EdgeError(f"{edge}: the target {name!r} cannot be imported: {error}.") from error
    return found
