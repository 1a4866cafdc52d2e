"""Each option stands in one place, and is documented and typed as it is taken."""

import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_type_hints

import pytest

from mahsm import Branch, fuse, jit_edge, parallel, reduce_edge, vmap
from mahsm.edges import JitOptions, VmapOptions
from mahsm.edges._shared.call_spec import CallSpec
from mahsm.edges._shared.ends import Ends
from mahsm.edges._shared.failures import Failures
from mahsm.edges._shared.tries import Tries
from mahsm.edges._vmap.batch import Batch
from mahsm.edges._vmap.concurrency import Concurrency
from mahsm.edges._vmap.spec import VmapSpec
from mahsm.edges._vmap.warm import Warm

WHAT = {"target", "batch_key", "batch", "sample", "out_key", "item_to_state", "result", "sink", "executor"}
"""What is called, for what, where, and what comes out."""


def types(function: Callable[..., Any], *without: str) -> dict[str, Any]:
    hints = get_type_hints(function)
    return {name: kind for name, kind in hints.items() if name not in ("return", *without)}


def test_vmap_options_are_those_of_vmap() -> None:
    assert get_type_hints(VmapOptions) == types(vmap, *WHAT)
    assert not VmapOptions.__required_keys__


def test_jit_options_are_those_of_jit_edge_and_fuse() -> None:
    assert get_type_hints(JitOptions) == types(jit_edge) | types(fuse, "edges")


@pytest.mark.parametrize(
    "function", [vmap, parallel, reduce_edge, jit_edge, fuse, Branch], ids=lambda function: function.__name__
)
def test_arguments_are_documented_in_the_order_in_which_they_are_taken(function: Any) -> None:
    taken = list(inspect.signature(function).parameters)
    arguments = inspect.getdoc(function).partition("Args:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^    \*?(\w+): ", arguments, re.MULTILINE) == taken


def test_targets_are_given_by_position_and_the_rest_by_name() -> None:
    for function, first in {vmap: "target", parallel: "branches", jit_edge: "fn"}.items():
        kinds = {name: each.kind for name, each in inspect.signature(function).parameters.items()}
        assert [name for name, kind in kinds.items() if kind is not inspect.Parameter.KEYWORD_ONLY] == [first]
    assert list(inspect.signature(Branch).parameters) == [
        *("target", "name", "reads", "writes", "after", "inherit"),
        *("retry", "timeout", "rate_limit"),
    ]


def test_each_option_of_vmap_has_one_home() -> None:
    groups = [Batch, Concurrency, Tries, Warm, Ends, Failures]
    named = [field.name for group in groups for field in fields(group)]
    own = {field.name for field in fields(VmapSpec)} - {
        "tries",
        "ends",
        "concurrency",
        "failures",
        "reducers",
        "batch",
        "warm",
        "workers",
    }
    taken = set(inspect.signature(vmap).parameters)
    assert sorted([*named, *own, "executor"]) == sorted(taken)


def test_defaults_are_those_of_the_objects() -> None:
    defaults = {name: each.default for name, each in inspect.signature(vmap).parameters.items()}
    for group in (Batch, Concurrency, Tries, Warm, Ends, Failures):
        assert {field.name: field.default for field in fields(group)}.items() <= defaults.items()


def test_branches_share_them() -> None:
    assert {field.name for field in fields(CallSpec)} == {"name", "target", "tries", "ends"}
    tried = {field.name for field in fields(Tries)} & set(inspect.signature(Branch).parameters)
    assert tried == {"retry", "timeout", "rate_limit"}
