"""Rewritten code of functions: finding their source, and making code objects of it that keep its lines."""

import __future__

import ast
import copy
import functools
import linecache
import sysconfig
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any, cast

from mahsm.xcs._call_names import remember
from mahsm.xcs._containers import rewritten_codes
from mahsm.xcs._rewrite import Rewriter
from mahsm.xcs._step import method_of

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

_FLAGS: set[int] = {getattr(__future__, name).compiler_flag for name in __future__.all_feature_names}
_FUTURE = sum(_FLAGS)

_BODY = "__xcs_body__"


class Rewritten:
    """The rewritten code of a function.

    Args:
        code: The code object; its free variables are those of the function, and the helpers.
        text: Its source, for readers.
        free: The free variables of the function.
        helpers: The helpers, by name.
    """

    def __init__(self, code: CodeType, text: str, free: Sequence[str], helpers: Mapping[str, Any]) -> None:
        self.code = code
        self.text = text
        places = {name: place for place, name in enumerate(free)}
        self._cells = [
            (places[name], None) if name in places else (-1, CellType(helpers[name]))
            for name in code.co_freevars
        ]
        self._constant = None if free else tuple(cell for _, cell in self._cells)

    def of(self, function: FunctionType) -> FunctionType:
        """Return a function with this code, and everything else of the function."""
        closure: Any = self._constant
        if closure is None:
            cells = function.__closure__ or ()
            closure = tuple(cell or cells[place] for place, cell in self._cells)
        made = FunctionType(
            self.code, function.__globals__, function.__name__, function.__defaults__, closure
        )
        if function.__kwdefaults__:
            made.__kwdefaults__ = function.__kwdefaults__
        return made


_made: dict[tuple[CodeType, str], Rewritten | None] = {}
_known: dict[int, tuple[CodeType, Rewritten | None]] = {}
"""The same by the `id` of a code object, which is faster: its hash covers all of its instructions."""
_lock = threading.Lock()


def rewritten(function: FunctionType, helpers: Mapping[str, Any]) -> Rewritten | None:
    """Return the rewritten code of a function; None if its source is missing or is not what runs."""
    code = function.__code__
    known = _known.get(id(code))
    if known is not None and known[0] is code:
        return known[1]
    key = (code, code.co_filename)
    with _lock:
        if key not in _made:
            _made[key] = _rewrite(function, helpers)
        _known[id(code)] = (code, _made[key])
        return _made[key]


def is_users(function: FunctionType) -> bool:
    """Return whether a function is the user's own, and not one of a library's."""
    name = function.__code__.co_filename
    known = _files.get(name)
    if known is None:
        known = _files[name] = not (
            is_library(name) or function.__globals__.get("__name__", "").partition(".")[0] == "mahsm"
        )
    return known


def is_library(file: str) -> bool:
    """Return whether a file is one of Python itself or of an installed package."""
    return (
        "site-packages" in file
        or "dist-packages" in file
        or file.startswith("<frozen")
        or file.startswith(_LIBRARY)
    )


_files: dict[str, bool] = {"<string>": False}
_LIBRARY: tuple[str, ...] = tuple({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})


def _rewrite(function: FunctionType, helpers: Mapping[str, Any]) -> Rewritten | None:
    code = function.__code__
    file = _parsed(code.co_filename, tuple(linecache.getlines(code.co_filename, function.__globals__)))
    # pytest changes the `assert`s of test modules itself.
    if file is None or not (file.has(code) or "@pytest_ar" in function.__globals__):
        return None
    found = _found(code, file.tree)
    if found is None:
        return None
    # The function has its defaults already: the code does without, and readers see them as they are.
    defaults = copy.deepcopy((found.args.defaults, found.args.kw_defaults))
    rewriter = Rewriter()
    node = cast("Function", rewriter.top(found))
    made = _compiled(node, code, _class_of(function.__qualname__), rewriter.helpers)
    if made is None:
        return None
    made = _renamed(made, code)
    _remember(made)
    remember(made, rewriter.names)
    node.args.defaults, node.args.kw_defaults = defaults
    if not isinstance(node, ast.Lambda):
        node.name = code.co_name
    return Rewritten(made, ast.unparse(node), code.co_freevars, helpers)


@dataclass(frozen=True)
class _File:
    """A source file: its syntax tree, and the codes of its functions."""

    tree: ast.Module
    codes: frozenset[Any]

    def has(self, code: CodeType) -> bool:
        """Return whether the file still says what the code does; it may have changed since its import."""
        return _print_of(code) in self.codes


@functools.lru_cache(maxsize=64)
def _parsed(name: str, lines: tuple[str, ...]) -> _File | None:
    if not lines:
        return None
    text = "".join(lines)
    try:
        tree = ast.parse(text)
        module = compile(text, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    return _File(tree, frozenset(map(_print_of, _codes(module))))


def _print_of(code: CodeType) -> Any:
    consts = [_shown(part) for part in code.co_consts if not isinstance(part, CodeType)]
    return code.co_qualname, code.co_firstlineno, code.co_code, code.co_names, code.co_varnames, tuple(consts)


def _shown(const: Any) -> str:
    # The order of a frozen set may be another one after it was read from a file.
    return repr(sorted(map(repr, cast("frozenset[Any]", const))) if type(const) is frozenset else const)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield part
            yield from _codes(part)


def _found(code: CodeType, tree: ast.Module) -> Function | None:
    """Return a copy of the syntax tree of a function."""
    kinds: Any = ast.Lambda if code.co_name == "<lambda>" else (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [
        cast("Function", node)
        for node in ast.walk(tree)
        if isinstance(node, kinds)
        and _first_line(cast("Function", node)) == code.co_firstlineno
        and getattr(node, "name", code.co_name) == code.co_name
    ]
    if len(nodes) > 1:
        nodes = [node for node in nodes if _spans(node, code)][-1:]
    return copy.deepcopy(nodes[0]) if nodes else None


def _first_line(node: Function) -> int:
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _spans(node: Function, code: CodeType) -> bool:
    """Return whether all instructions of the code lie in the body of a lambda."""
    body: Any = node.body
    if isinstance(body, list):
        return True
    begin, end = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
    for line, end_line, column, end_column in code.co_positions():
        if not column and not end_column:
            continue
        if (line, column) < begin or (end_line, end_column) > end:
            return False
    return True


def _class_of(qualname: str) -> str | None:
    """Return the name of a class for a copy of a method, where names such as self.__x are mangled alike."""
    before = qualname.split(".")[:-1]
    # Mangling ignores underscores in front. The name of the class itself is one that the method may use.
    return f"_____{before[-1]}" if before and before[-1] != "<locals>" else None


def _compiled(
    node: Function, code: CodeType, class_name: str | None, helpers: Sequence[str]
) -> CodeType | None:
    """Compile a function inside another one, whose parameters are its free variables."""
    inner: ast.stmt
    if isinstance(node, ast.Lambda):
        _without_defaults(node.args)
        inner = ast.Expr(node)
    else:
        node.name, node.decorator_list, node.returns = _BODY, [], None
        if hasattr(node, "type_params"):
            cast("Any", node).type_params = []
        _without_defaults(node.args)
        inner = node
    if class_name is not None:
        # So that names such as self.__x are mangled.
        made = ast.parse(f"class {class_name}: pass").body[0]
        cast("ast.ClassDef", made).body = [inner]
        inner = made
    names = dict.fromkeys([*code.co_freevars, *helpers])
    outer = ast.parse(f"def outer({', '.join(names)}): pass")
    cast("ast.FunctionDef", outer.body[0]).body = [inner]
    try:
        module = compile(
            ast.fix_missing_locations(outer),
            code.co_filename,
            "exec",
            code.co_flags & _FUTURE,
            dont_inherit=True,
        )
    except (SyntaxError, ValueError):
        return None
    name = "<lambda>" if isinstance(node, ast.Lambda) else _BODY
    found = _inside(_only(module, "outer"), name, class_name)
    if found is None or set(found.co_freevars) - names.keys():
        return None
    return found


def _inside(outer: CodeType, name: str, class_name: str | None) -> CodeType | None:
    try:
        return _only(outer if class_name is None else _only(outer, class_name), name)
    except StopIteration:
        return None


def _only(code: CodeType, name: str) -> CodeType:
    return next(part for part in code.co_consts if isinstance(part, CodeType) and part.co_name == name)


def _without_defaults(args: ast.arguments) -> None:
    """Replace defaults, which the function has already, and drop annotations."""
    args.defaults = [ast.Constant(None) for _ in args.defaults]
    args.kw_defaults = [None if default is None else ast.Constant(None) for default in args.kw_defaults]
    for arg in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
        if arg is not None:
            arg.annotation = None


def _renamed(made: CodeType, original: CodeType) -> CodeType:
    old = made.co_qualname

    def under(code: CodeType) -> CodeType:
        consts = tuple(under(part) if isinstance(part, CodeType) else part for part in code.co_consts)
        qualname = original.co_qualname + code.co_qualname.removeprefix(old)
        name = original.co_name if code.co_name == _BODY else code.co_name
        return code.replace(co_consts=consts, co_qualname=qualname, co_name=name)

    return under(made)


def _remember(code: CodeType) -> None:
    rewritten_codes[id(code)] = code
    for part in code.co_consts:
        if isinstance(part, CodeType):
            _remember(part)


def function_of(callee: Any) -> FunctionType | None:
    """Return the Python function that something calls: a method, a partial, an object with `__call__`."""
    while isinstance(callee, functools.partial):
        callee = cast("Any", callee).func
    if (bound := method_of(callee)) is not None:
        callee = bound[0]
    if not isinstance(callee, FunctionType):
        callee = getattr(cast("Any", type(callee)), "__call__", None)  # noqa: B004  of an object
    return callee if isinstance(callee, FunctionType) else None
