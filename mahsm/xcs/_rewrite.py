"""The rewriting of a function: the places at which Python gives no other way to see a pending value."""

import ast
import copy
from collections.abc import Iterator
from typing import Any, cast

(
    CALL,
    FORMAT,
    READY,
    FORCE,
    SCOPE,
    SETTLED,
    EACH_SETTLED,
    AWAIT,
    SET_ITEM,
    DEL_ITEM,
    SLICE,
    BINARY,
    IN_PLACE,
) = HELPERS = tuple(
    f"__xcs_{name}__"
    for name in (
        "call",
        "format",
        "ready",
        "force",
        "scope",
        "settled",
        "each_settled",
        "await",
        "set_item",
        "del_item",
        "slice",
        "binary",
        "in_place",
    )
)
"""The names of the helpers in rewritten code; `_calls` has the functions."""

_FRAME_FUNCTIONS = frozenset({"super", "locals", "globals", "vars", "eval", "exec", "dir", "breakpoint"})
"""Functions that look at the frame which calls them, so that nothing may stand between."""


class Rewriter(ast.NodeTransformer):
    """Rewrites the body of one function, and of those inside it. Lines and columns stay what they are.

    - A call goes through `call`, which begins steps, and waits for arguments of what is not rewritten.
    - An f-string goes through `format`, and stays pending.
    - `is`, `in`, comparisons, keys and subjects of `match` wait.
    - The body of a `try` or `with` becomes a scope, whose steps have ended when it is left.
    - What is stored outside of the function (attributes, globals) waits.
    """

    def __init__(self) -> None:
        self.helpers: list[str] = list(HELPERS)
        self._functions: list[ast.AST] = []
        self._outside: list[set[str]] = []
        self._scopes = 0

    def top(self, node: ast.AST) -> ast.AST:
        """Rewrite a function."""
        if not isinstance(node, ast.Lambda):
            cast("ast.FunctionDef", node).decorator_list = []
        return self.visit(node)

    # Functions.

    def _function(self, node: Any) -> Any:
        self._functions.append(copy.deepcopy(node))
        self._outside.append(_stored_outside(node))
        self.generic_visit(node)
        self._outside.pop()
        self._functions.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    # Expressions.

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _FRAME_FUNCTIONS:
            node.args = [one if isinstance(one, ast.Starred) else _of(FORCE, one) for one in node.args]
            return node
        return _at(node, ast.Call(_name(CALL), [node.func, *node.args], node.keywords))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> Any:
        parts: list[ast.expr] = []
        for value in node.values:
            if isinstance(value, ast.FormattedValue):
                spec = ast.Constant("") if value.format_spec is None else self.visit(value.format_spec)
                parts.append(
                    ast.Tuple([self.visit(value.value), ast.Constant(value.conversion), spec], ast.Load())
                )
            else:
                parts.append(value)
        if not any(isinstance(part, ast.Tuple) for part in parts):
            return node
        return _at(node, ast.Call(_name(FORMAT), parts, []))

    def visit_Await(self, node: ast.Await) -> Any:
        self.generic_visit(node)
        node.value = _of(AWAIT, node.value)
        return node

    def visit_Compare(self, node: ast.Compare) -> Any:
        self.generic_visit(node)
        node.left = _ready(node.left)
        node.comparators = [_ready(one) for one in node.comparators]
        return node

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        self.generic_visit(node)
        if isinstance(node.right, ast.Constant):
            return node
        return _at(node, ast.Call(_name(BINARY), [_symbol(node.op), node.left, node.right], []))

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        self.generic_visit(node)
        node.slice = _key(node.slice)
        return node

    # Statements.

    def visit_Assign(self, node: ast.Assign) -> Any:
        self.generic_visit(node)
        if len(node.targets) == 1 and isinstance(target := node.targets[0], ast.Subscript):
            call = ast.Call(_name(SET_ITEM), [node.value, target.value, _unsliced(target.slice)], [])
            return _at(node, ast.Expr(_at(node, call)))
        if any(self._leaves(target) for target in node.targets):
            node.value = _of(FORCE, node.value)
        return node

    def visit_Delete(self, node: ast.Delete) -> Any:
        self.generic_visit(node)
        made: list[ast.stmt] = []
        for target in node.targets:
            if isinstance(target, ast.Subscript):
                call = ast.Call(_name(DEL_ITEM), [target.value, _unsliced(target.slice)], [])
                made.append(_at(node, ast.Expr(_at(node, call))))
            else:
                made.append(_at(node, ast.Delete([target])))
        return made

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return node
        node.value = self.visit(node.value)
        node.target = self.visit(node.target)
        if self._leaves(node.target):
            node.value = _of(FORCE, cast("ast.expr", node.value))
        return node

    def visit_NamedExpr(self, node: ast.NamedExpr) -> Any:
        self.generic_visit(node)
        if self._leaves(node.target):
            node.value = _of(FORCE, node.value)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name) and not self._leaves(node.target):
            left = _at(node.target, ast.Name(node.target.id, ast.Load()))
            call = ast.Call(_name(IN_PLACE), [_symbol(node.op), left, node.value], [])
            return _at(node, ast.Assign([node.target], _at(node, call)))
        node.value = _of(FORCE, node.value)
        return node

    def visit_For(self, node: Any) -> Any:
        self.generic_visit(node)
        if self._leaves(node.target):
            node.iter = _of(FORCE, node.iter)
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> Any:
        self.generic_visit(node)
        node.iter = _of(FORCE, node.iter)
        return node

    def visit_Match(self, node: ast.Match) -> Any:
        self.generic_visit(node)
        node.subject = _of(FORCE, node.subject)
        return node

    def visit_Raise(self, node: ast.Raise) -> Any:
        self.generic_visit(node)
        if node.exc is not None:
            node.exc = _of(FORCE, node.exc)
        return node

    def visit_Assert(self, node: ast.Assert) -> Any:
        self.generic_visit(node)
        if node.msg is not None:
            node.msg = _of(FORCE, node.msg)
        return node

    def _try(self, node: Any) -> Any:
        if node.finalbody and node.handlers:
            # Errors in handlers come out before `finally`, too.
            node.body = [_without_finally(node)]
            node.handlers, node.orelse = [], []
        return self._kept(node)

    def _kept(self, node: Any) -> Any:
        """Make a scope of a body after whose errors the function may go on."""
        kept: set[str] = kept_names(self._functions[-1], node) if self._functions else set()
        self._scopes += 1
        name = f"__xcs_scope_{self._scopes}__"
        self.generic_visit(node)
        if kept:
            settle = _Settle(kept, name)
            node.body = settle.block(node.body)
        node.body = _scope(node.body, name)
        return node

    visit_Try = visit_TryStar = _try

    def _with(self, node: Any) -> Any:
        if any(map(_suppresses, node.items)):
            node = self._kept(node)
        else:
            self.generic_visit(node)
            node.body = _scope(node.body, None)
        for item in node.items:
            item.context_expr = _of(FORCE, item.context_expr)
        return node

    visit_With = visit_AsyncWith = _with

    def _leaves(self, target: ast.AST) -> bool:
        """Return whether an assignment stores something where code outside of the function may see it."""
        if isinstance(target, ast.Name):
            return any(target.id in names for names in self._outside)
        if isinstance(target, ast.Tuple | ast.List):
            return any(map(self._leaves, target.elts))
        return not isinstance(target, ast.Starred) or self._leaves(target.value)


def _stored_outside(node: ast.AST) -> set[str]:
    return {
        name for part in ast.walk(node) if isinstance(part, ast.Global | ast.Nonlocal) for name in part.names
    }


def _symbol(operator: ast.operator) -> ast.expr:
    return ast.Constant(_SYMBOLS[type(operator)])


_SYMBOLS: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "truediv",
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
    ast.Pow: "pow",
    ast.MatMult: "matmul",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.LShift: "lshift",
    ast.RShift: "rshift",
}


def _ready(node: ast.expr) -> ast.expr:
    return node if isinstance(node, ast.Constant) else _of(READY, node)


def _key(node: ast.expr) -> ast.expr:
    if isinstance(node, ast.Slice):
        for part in ("lower", "upper", "step"):
            if (value := getattr(node, part)) is not None:
                setattr(node, part, _ready(value))
        return node
    if isinstance(node, ast.Tuple) and not any(isinstance(part, ast.Starred) for part in node.elts):
        node.elts = [_key(part) for part in node.elts]
        return node
    return node if isinstance(node, ast.Constant | ast.Starred | ast.Tuple) else _ready(node)


def _unsliced(node: ast.expr) -> ast.expr:
    """Return a key as an expression of its own; slices become calls."""
    if isinstance(node, ast.Slice):
        parts = [part or ast.Constant(None) for part in (node.lower, node.upper, node.step)]
        return _at(node, ast.Call(_name(SLICE), parts, []))
    if isinstance(node, ast.Tuple):
        node.elts = [_unsliced(part) for part in node.elts]
    return node


def _scope(body: list[ast.stmt], name: str | None) -> list[ast.stmt]:
    bound = None if name is None else ast.Name(name, ast.Store())
    item = ast.withitem(ast.Call(_name(SCOPE), [], []), bound)
    made = _at(body[0], ast.With([item], body))
    made.end_lineno, made.end_col_offset = body[0].lineno, body[0].col_offset
    for part in ast.walk(item):
        if isinstance(part, ast.expr):
            _at(body[0], part)
    return [made]


def _suppresses(item: ast.withitem) -> bool:
    """Return whether a block swallows errors, as far as its name says so: `contextlib.suppress`."""
    call = item.context_expr
    function = call.func if isinstance(call, ast.Call) else call
    return getattr(function, "attr", getattr(function, "id", "")) == "suppress"


def _without_finally(node: Any) -> Any:
    inner = _at(node, type(node)(node.body, node.handlers, node.orelse, []))
    last = (node.orelse or node.handlers[-1].body)[-1]
    inner.end_lineno, inner.end_col_offset = last.end_lineno, last.end_col_offset
    return inner


def _of(helper: str, value: ast.expr) -> ast.expr:
    return _at(value, ast.Call(_name(helper), [value], []))


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _at(place: ast.AST, node: Any) -> Any:
    return ast.copy_location(node, place)


class _Settle(ast.NodeTransformer):
    """Lets assignments to some names wait, in the body of a `try`, until everything before has succeeded.

    If a step fails, the plain function would not have reached an assignment after it. For a name that nothing
    outside of the body reads, that makes no difference.
    """

    def __init__(self, names: set[str], scope: str) -> None:
        self._names = names
        self._scope = scope

    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Let the statements of a body wait."""
        made: list[ast.stmt] = []
        for statement in body:
            found = self.visit(statement)
            made += found if isinstance(found, list) else [found]
        return made

    def _named(self, node: Any) -> Any:
        """Wait before a `def`, a class or an import; what is inside has names of its own."""
        names = [alias.asname or alias.name.partition(".")[0] for alias in getattr(node, "names", ())]
        if self._names.isdisjoint([*names, getattr(node, "name", "")]):
            return node
        return [_at(node, ast.Expr(self._settled(_at(node, ast.Constant(None))))), node]

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Import = visit_ImportFrom = _named

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        return node

    def _settled(self, value: ast.expr, by: str = SETTLED) -> ast.expr:
        return _at(value, ast.Call(_name(by), [value, _name(self._scope)], []))

    def _assigned(self, node: Any) -> Any:
        self.generic_visit(node)
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if node.value is not None and any(_stored(target) & self._names for target in targets):
            node.value = self._settled(node.value)
        return node

    visit_Assign = visit_AnnAssign = visit_AugAssign = visit_NamedExpr = _assigned

    def visit_For(self, node: ast.For) -> Any:
        self.generic_visit(node)
        if _stored(node.target) & self._names:
            node.iter = self._settled(node.iter, EACH_SETTLED)
        return node

    def _with(self, node: Any) -> Any:
        self.generic_visit(node)
        for item in node.items:
            if item.optional_vars is not None and _stored(item.optional_vars) & self._names:
                item.context_expr = self._settled(item.context_expr)
        return node

    visit_With = visit_AsyncWith = _with


def _stored(target: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}


def kept_names(function: ast.AST, node: Any) -> set[str]:
    """Return the names that the body of a `try` assigns, and that matter when it is left by an error.

    That is so if the name is read anywhere else in the function, or in the body before it is assigned there,
    in an earlier turn of a loop around the `try`.
    """
    stored = {name for statement in node.body for name in _bound(statement)}
    if not stored:
        return set()
    first, last = node.body[0], node.body[-1]
    begin, end = (first.lineno, first.col_offset), (last.end_lineno, last.end_col_offset)
    kept: set[str] = set()
    for part in ast.walk(function):
        if isinstance(part, ast.Global | ast.Nonlocal):
            kept.update(stored.intersection(part.names))
        if not isinstance(part, ast.Name) or part.id not in stored:
            continue
        inside = begin <= (part.lineno, part.col_offset) < end
        if not inside and not isinstance(part.ctx, ast.Store):
            kept.add(part.id)
    return kept | {name for name in stored - kept if not _assigned_first(node.body, name)}


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Iterate over the names that a statement binds."""
    for part in ast.walk(statement):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield part.name
        elif isinstance(part, ast.alias):
            yield part.asname or part.name.partition(".")[0]


def _assigned_first(body: list[ast.stmt], name: str) -> bool:
    """Return whether the first statement of a body that mentions a name assigns it, and does not read it."""
    for statement in body:
        mentions = [part for part in ast.walk(statement) if isinstance(part, ast.Name) and part.id == name]
        if mentions:
            return isinstance(statement, ast.Assign | ast.AnnAssign) and all(
                isinstance(part.ctx, ast.Store) for part in mentions
            )
    return False
