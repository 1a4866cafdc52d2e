"""Targets of assignments."""

import ast
import copy
from collections.abc import Callable, Iterator
from typing import Any, cast

from mahsm.xcs._syntax import at, loaded, stored


def one_by_one(node: ast.Assign, new: Callable[[], str]) -> list[ast.stmt]:
    """Return assignments to new names, and from these to the targets, one after the other."""
    made: list[ast.stmt] = []
    value = new()
    made.append(at(node, ast.Assign([stored(value)], node.value)))
    for target in node.targets:
        if not isinstance(target, ast.Tuple | ast.List):
            made.append(at(node, ast.Assign([target], at(target, loaded(value)))))
            continue
        names = _Names(new)
        pattern = names.visit(copy.deepcopy(target))
        made.append(at(node, ast.Assign([pattern], at(target, loaded(value)))))
        made += [
            at(node, ast.Assign([leaf], at(leaf, loaded(name))))
            for leaf, name in zip(leaves_of(target), names.made, strict=True)
        ]
    return made


def is_single(node: ast.Assign) -> bool:
    return len(node.targets) == 1 and not isinstance(node.targets[0], ast.Tuple | ast.List)


def leaves_of(node: ast.AST) -> Iterator[ast.expr]:
    """Iterate over what an assignment, or a target of one, stores to, in its order."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from leaves_of(target)
    elif isinstance(node, ast.Tuple | ast.List):
        for part in node.elts:
            yield from leaves_of(part)
    else:
        yield cast("ast.expr", node.value if isinstance(node, ast.Starred) else node)


class _Names(ast.NodeTransformer):
    """Replaces what a target stores to by new names.

    Args:
        new: Returns a new name.
    """

    def __init__(self, new: Callable[[], str]) -> None:
        self._new = new
        self.made: list[str] = []

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Tuple | ast.List | ast.Starred | ast.expr_context):
            return self.generic_visit(node)
        self.made.append(self._new())
        return at(node, stored(self.made[-1]))
