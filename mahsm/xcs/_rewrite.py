"""The rewriting of a function: the places at which Python gives no other way to see a pending value."""

import ast
from typing import Any, cast

CALL, FORMAT, READY, FORCE, SCOPE, AWAIT, SET_ITEM, SLICE, BINARY, IN_PLACE = HELPERS = tuple(
    f"__xcs_{name}__"
    for name in (
        "call",
        "format",
        "ready",
        "force",
        "scope",
        "await",
        "set_item",
        "slice",
        "binary",
        "in_place",
    )
)
"""The names of the helpers in rewritten code; `_calls` has the functions."""

_FRAME_FUNCTIONS = frozenset({"super", "locals", "globals", "vars", "eval", "exec", "dir", "breakpoint"})
"""Functions that look at the frame which calls them, so that nothing may stand between."""


class Rewriter(ast.NodeTransformer):
    """Rewrites the body of one function, and of the functions inside it. Lines and columns stay what they are.

    - A call goes through `call`, which begins steps, and waits for arguments of what is not rewritten.
    - An f-string goes through `format`, and stays pending.
    - `is`, `in`, comparisons, keys and subjects of `match` wait.
    - The body of a `try` or `with` becomes a scope, whose steps have ended when it is left.
    - What is stored outside of the function (attributes, globals) waits.
    """

    def __init__(self) -> None:
        self.helpers: list[str] = list(HELPERS)
        self._outside: list[set[str]] = []

    def top(self, node: ast.AST) -> ast.AST:
        """Rewrite a function."""
        if not isinstance(node, ast.Lambda):
            cast("ast.FunctionDef", node).decorator_list = []
        return self.visit(node)

    # Functions.

    def _function(self, node: Any) -> Any:
        self._outside.append(_stored_outside(node))
        self.generic_visit(node)
        self._outside.pop()
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
        self.generic_visit(node)
        node.body = _scope(node.body)
        return node

    visit_Try = visit_TryStar = _try

    def _with(self, node: Any) -> Any:
        self.generic_visit(node)
        for item in node.items:
            item.context_expr = _of(FORCE, item.context_expr)
        node.body = _scope(node.body)
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
        name
        for part in ast.walk(node)
        if isinstance(part, ast.Global | ast.Nonlocal)
        for name in part.names
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
    ast.BitAnd: "and_",
    ast.BitOr: "or_",
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


def _scope(body: list[ast.stmt]) -> list[ast.stmt]:
    item = ast.withitem(ast.Call(_name(SCOPE), [], []), None)
    made = _at(body[0], ast.With([item], body))
    made.end_lineno, made.end_col_offset = body[0].lineno, body[0].col_offset
    for part in ast.walk(item):
        if isinstance(part, ast.expr):
            _at(body[0], part)
    return [made]


def _of(helper: str, value: ast.expr) -> ast.expr:
    return _at(value, ast.Call(_name(helper), [value], []))


def _name(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _at(place: ast.AST, node: Any) -> Any:
    return ast.copy_location(node, place)
