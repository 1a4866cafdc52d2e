"""Names that keep their values when the body of a `try` fails."""

import ast
from collections.abc import Iterator
from typing import Any

from mahsm.xcs._syntax import EACH_SETTLED, SETTLED, at, loaded


class Settle(ast.NodeTransformer):
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
        return [at(node, ast.Expr(self._settled(at(node, ast.Constant(None))))), node]

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = visit_Import = visit_ImportFrom = _named

    def visit_Lambda(self, node: ast.Lambda) -> Any:
        return node

    def _settled(self, value: ast.expr, by: str = SETTLED) -> ast.expr:
        return at(value, ast.Call(loaded(by), [value, loaded(self._scope)], []))

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
