"""The rewriting of a function: the places at which Python gives no other way to see a pending value."""

import ast
import copy
from typing import Any, cast

from mahsm.xcs._call_names import Place, called_name
from mahsm.xcs._kept import Settle, kept_names
from mahsm.xcs._syntax import (
    AWAIT,
    BINARY,
    CALL,
    CHANGE_ITEM,
    DEL_ITEM,
    DELEGATED,
    FORCE,
    FORMAT,
    HELPERS,
    IN_PLACE,
    ITEM,
    PAUSED,
    READY,
    RESUMED,
    SCOPE,
    SET_ITEM,
    SLICE,
    at,
    loaded,
    of,
)
from mahsm.xcs._targets import is_single, leaves_of, one_by_one

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
        self.names: dict[Place, str] = {}
        """The names in the calls, by their places."""
        self._functions: list[ast.AST] = []
        self._outside: list[set[str]] = []
        self._open: list[list[str]] = []
        self._scopes = 0
        self._targets = 0

    def top(self, node: ast.AST) -> ast.AST:
        """Rewrite a function."""
        if not isinstance(node, ast.Lambda):
            cast("ast.FunctionDef", node).decorator_list = []
        return self.visit(node)

    # Functions.

    def _function(self, node: Any) -> Any:
        self._functions.append(copy.deepcopy(node))
        self._outside.append(_stored_outside(node))
        self._open.append([])
        self.generic_visit(node)
        self._open.pop()
        self._outside.pop()
        self._functions.pop()
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        self._open.append([])
        self.generic_visit(node)
        self._open.pop()
        return node

    # Expressions.

    def visit_Call(self, node: ast.Call) -> Any:
        if (name := called_name(node.func)) is not None:
            place = node.lineno, node.end_lineno, node.col_offset, node.end_col_offset
            self.names[place] = name
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in _FRAME_FUNCTIONS:
            node.args = [one if isinstance(one, ast.Starred) else of(FORCE, one) for one in node.args]
            return node
        return at(node, ast.Call(loaded(CALL), [node.func, *node.args], node.keywords))

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
        return at(node, ast.Call(loaded(FORMAT), parts, []))

    def visit_Await(self, node: ast.Await) -> Any:
        self.generic_visit(node)
        node.value = of(AWAIT, node.value)
        return node

    def visit_Yield(self, node: ast.Yield) -> Any:
        self.generic_visit(node)
        if not (scopes := [loaded(name) for name in self._open[-1]]):
            return node
        value = node.value or at(node, ast.Constant(None))
        node.value = at(value, ast.Call(loaded(PAUSED), [value, *scopes], []))
        return at(node, ast.Call(loaded(RESUMED), [node, *scopes], []))

    def visit_YieldFrom(self, node: ast.YieldFrom) -> Any:
        self.generic_visit(node)
        if scopes := [loaded(name) for name in self._open[-1]]:
            node.value = at(node.value, ast.Call(loaded(DELEGATED), [node.value, *scopes], []))
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
        return at(node, ast.Call(loaded(BINARY), [_symbol(node.op), node.left, node.right], []))

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        self.generic_visit(node)
        node.slice = _key(node.slice)
        return node

    # Statements.

    def visit_Assign(self, node: ast.Assign) -> Any:
        if not is_single(node) and any(isinstance(leaf, ast.Subscript) for leaf in leaves_of(node)):
            return [self.visit(statement) for statement in one_by_one(node, self._target)]
        self.generic_visit(node)
        if len(node.targets) == 1 and isinstance(target := node.targets[0], ast.Subscript):
            call = ast.Call(loaded(SET_ITEM), [node.value, target.value, _unsliced(target.slice)], [])
            return at(node, ast.Expr(at(node, call)))
        if any(self._leaves(target) for target in node.targets):
            node.value = of(FORCE, node.value)
        return node

    def _target(self) -> str:
        self._targets += 1
        return f"__xcs_target_{self._targets}__"

    def visit_Delete(self, node: ast.Delete) -> Any:
        self.generic_visit(node)
        made: list[ast.stmt] = []
        for target in node.targets:
            if isinstance(target, ast.Subscript):
                call = ast.Call(loaded(DEL_ITEM), [target.value, _unsliced(target.slice)], [])
                made.append(at(node, ast.Expr(at(node, call))))
            else:
                made.append(at(node, ast.Delete([target])))
        return made

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is None:
            return node
        node.value = self.visit(node.value)
        node.target = self.visit(node.target)
        if self._leaves(node.target):
            node.value = of(FORCE, cast("ast.expr", node.value))
        return node

    def visit_NamedExpr(self, node: ast.NamedExpr) -> Any:
        self.generic_visit(node)
        if self._leaves(node.target):
            node.value = of(FORCE, node.value)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name) and not self._leaves(node.target):
            left = at(node.target, ast.Name(node.target.id, ast.Load()))
            call = ast.Call(loaded(IN_PLACE), [_symbol(node.op), left, node.value], [])
            return at(node, ast.Assign([node.target], at(node, call)))
        if isinstance(target := node.target, ast.Subscript):
            item = at(target, ast.Call(loaded(ITEM), [target.value, _unsliced(target.slice)], []))
            call = ast.Call(loaded(CHANGE_ITEM), [_symbol(node.op), item, node.value], [])
            return at(node, ast.Expr(at(node, call)))
        node.value = of(FORCE, node.value)
        return node

    def visit_For(self, node: Any) -> Any:
        self.generic_visit(node)
        if self._leaves(node.target):
            node.iter = of(FORCE, node.iter)
        return node

    def visit_AsyncFor(self, node: ast.AsyncFor) -> Any:
        self.generic_visit(node)
        node.iter = of(FORCE, node.iter)
        return node

    def visit_Match(self, node: ast.Match) -> Any:
        self.generic_visit(node)
        node.subject = of(FORCE, node.subject)
        return node

    def visit_Raise(self, node: ast.Raise) -> Any:
        self.generic_visit(node)
        if node.exc is not None:
            node.exc = of(FORCE, node.exc)
        return node

    def visit_Assert(self, node: ast.Assert) -> Any:
        self.generic_visit(node)
        if node.msg is not None:
            node.msg = of(FORCE, node.msg)
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
        name = self._visit_block(node)
        if kept:
            settle = Settle(kept, name)
            node.body = settle.block(node.body)
        node.body = _scope(node.body, name)
        return node

    def _visit_block(self, node: Any) -> str:
        """Rewrite a statement whose body becomes a scope; return the name of the scope."""
        self._scopes += 1
        name = f"__xcs_scope_{self._scopes}__"
        body, node.body = node.body, []
        self.generic_visit(node)
        self._open[-1].append(name)
        for statement in body:
            found = self.visit(statement)
            node.body += found if isinstance(found, list) else [found]
        self._open[-1].pop()
        return name

    visit_Try = visit_TryStar = _try

    def _with(self, node: Any) -> Any:
        if any(map(_suppresses, node.items)):
            node = self._kept(node)
        else:
            node.body = _scope(node.body, self._visit_block(node))
        for item in node.items:
            item.context_expr = of(FORCE, item.context_expr)
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
    return node if isinstance(node, ast.Constant) else of(READY, node)


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
        return at(node, ast.Call(loaded(SLICE), parts, []))
    if isinstance(node, ast.Tuple):
        node.elts = [_unsliced(part) for part in node.elts]
    return node


def _scope(body: list[ast.stmt], name: str) -> list[ast.stmt]:
    item = ast.withitem(ast.Call(loaded(SCOPE), [], []), ast.Name(name, ast.Store()))
    made = at(body[0], ast.With([item], body))
    made.end_lineno, made.end_col_offset = body[0].lineno, body[0].col_offset
    for part in ast.walk(item):
        if isinstance(part, ast.expr):
            at(body[0], part)
    return [made]


def _suppresses(item: ast.withitem) -> bool:
    """Return whether a block swallows errors, as far as its name says so: `contextlib.suppress`."""
    call = item.context_expr
    function = call.func if isinstance(call, ast.Call) else call
    return getattr(function, "attr", getattr(function, "id", "")) == "suppress"


def _without_finally(node: Any) -> Any:
    inner = at(node, type(node)(node.body, node.handlers, node.orelse, []))
    last = (node.orelse or node.handlers[-1].body)[-1]
    inner.end_lineno, inner.end_col_offset = last.end_lineno, last.end_col_offset
    return inner
