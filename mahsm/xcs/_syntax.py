"""Pieces of syntax of rewritten code, and the names of its helpers."""

import ast
from typing import Any

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
    ITEM,
    CHANGE_ITEM,
    PAUSED,
    RESUMED,
    DELEGATED,
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
        "item",
        "change_item",
        "paused",
        "resumed",
        "delegated",
    )
)
"""The names of the helpers in rewritten code; `_calls` has the functions."""


def of(helper: str, value: ast.expr) -> ast.expr:
    return at(value, ast.Call(loaded(helper), [value], []))


def loaded(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def at(place: ast.AST, node: Any) -> Any:
    return ast.copy_location(node, place)


def stored(name: str) -> ast.Name:
    return ast.Name(name, ast.Store())
