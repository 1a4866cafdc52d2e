"""A graph, edge, node, operator or function of the user's, by `module:name` or `path/to/file.py:name`."""

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from mahsm._common import nearest, shown
from mahsm.cli._outcome import UsageError, described


def load(target: str) -> Any:
    """Return the object that a target names; of a function or class without parameters, what it returns;
    of a graph that is not compiled, the compiled one.

    The current folder is importable, and for a file, its folder, too. What the module prints goes to stderr.

    Args:
        target: Such as `app:graph`, `package.module:build` or `folder/app.py:graph`. A name may have dots.

    Raises:
        UsageError: if the module or the name does not exist, or the import or the function fails.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not place or not name:
        raise UsageError(
            f"{target!r} names no object; expected module:name or file.py:name, such as 'app:graph'."
        )
    with redirect_stdout(sys.stderr):
        return _compiled(_made(_named(_module(place), place, name), target), target)


def _module(place: str) -> ModuleType:
    _import_from(Path.cwd())
    if place.endswith(".py") or "/" in place:
        return _of_file(Path(place))
    try:
        return _imported(lambda: importlib.import_module(place), place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise
        raise UsageError(
            f"no module {error.name!r}, neither in {Path.cwd()} nor installed. "
            f"{nearest(place, _modules_here())} Or name a file: path/to/file.py:name."
        ) from None


def _of_file(path: Path) -> ModuleType:
    """Return the module of a file, under its name, so that pickles and checkpoints find it again."""
    if not path.is_file():
        there = [str(path.with_name(each.name)) for each in path.parent.glob("*.py")]
        raise UsageError(f"no file {str(path)!r}. {nearest(str(path), there)}".rstrip())
    path = path.resolve()
    _import_from(path.parent)
    present = sys.modules.get(path.stem)
    if present is not None and getattr(present, "__file__", None) == str(path):
        return present
    found = importlib.util.find_spec(path.stem) if present is None and path.stem.isidentifier() else None
    is_found = found is not None and found.origin is not None and Path(found.origin).resolve() == path
    # Another module may have the name of the file already.
    name = path.stem if is_found else f"{path.stem}_of_file"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{str(path)!r} is no Python file; expected a name that ends in .py.")
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules[name] = module
    try:
        _imported(lambda: loader.exec_module(module), str(path))
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _imported(run: Callable[[], Any], place: str) -> Any:
    """Import a module.

    Raises:
        ModuleNotFoundError: if there is no module of this name.
        UsageError: if its own code fails.
    """
    try:
        return run()
    except (Exception, SystemExit) as error:
        lines = _lines_in(error)
        if isinstance(error, ModuleNotFoundError) and not lines:
            raise
        raise UsageError(f"the import of {place!r} failed: {described(error, lines)}") from error


def _lines_in(error: BaseException) -> str | None:
    """Return the innermost file in a traceback that is neither Python's importer nor this file."""
    trace, found = error.__traceback__, None
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file != __file__ and not file.startswith("<frozen ") and file != importlib.__file__:
            found = file
        trace = trace.tb_next
    return found


def _named(module: ModuleType, place: str, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [each for each in dir(found) if not each.startswith("_")]
            hint = nearest(part, names) or f"It has {', '.join(names[:12]) or 'nothing'}."
            raise UsageError(f"{place!r} has no {name!r}. {hint}")
        found = getattr(found, part)
    return found


def _made(found: Any, target: str) -> Any:
    """Return what a function or class without parameters returns, and anything else as it is."""
    if not (inspect.isfunction(found) or inspect.isclass(found)) or not _takes_nothing(found):
        return found
    if inspect.iscoroutinefunction(found):
        raise UsageError(f"{target!r} is an async function without parameters; expected one that returns.")
    try:
        return found()
    except Exception as error:
        raise UsageError(f"{target!r} failed: {described(error, _lines_in(error))}") from error


def _compiled(found: Any, target: str) -> Any:
    is_builder = hasattr(found, "add_node") and hasattr(found, "compile")
    try:
        return found.compile() if is_builder and not inspect.isclass(found) else found
    except ValueError as error:
        raise UsageError(f"{target!r} cannot be compiled: {error}") from error


def _takes_nothing(function: Callable[..., Any]) -> bool:
    """Return whether a function has only optional parameters, by name; then it makes what is meant."""
    is_module = inspect.isclass(function) and type(function).__call__ is not type.__call__
    try:
        # The metaclass of DSPy's modules takes any arguments; their own are those of `__init__`.
        called = functools.partial(function.__init__, None) if is_module else function
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return False
    various = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(each.default is not each.empty and each.kind not in various for each in parameters)


def _import_from(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _modules_here() -> list[str]:
    here = Path.cwd()
    return [each.stem for each in here.glob("*.py")] + [
        each.parent.name for each in here.glob("*/__init__.py")
    ]


def graph_of(target: str) -> Any:
    """Return the graph that a target names, compiled.

    Raises:
        UsageError: as `load`; also if it is not a graph or an edge.
    """
    found = load(target)
    if not hasattr(found, "get_graph"):
        what = "a function that takes arguments" if inspect.isroutine(found) else shown(found)
        raise UsageError(
            f"{target!r} is {what}; expected a graph, an edge, or a function without parameters that returns "
            "one."
        )
    return found
