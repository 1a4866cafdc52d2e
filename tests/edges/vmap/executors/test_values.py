"""Items, results and errors are the same in a worker as here, whatever their classes."""

from types import SimpleNamespace
from typing import Any

import pytest

from mahsm import is_item_error, vmap
from mahsm.errors import EdgeError
from tests.edges.vmap.executors import targets

pytestmark = pytest.mark.slow

CELL = """
import enum
from dataclasses import dataclass

class Color(enum.Enum):
    RED = 1

@dataclass
class Point:
    x: int

class Refused(Exception):
    pass

def compares(state):
    item = state["item"]
    return item if item is Color.RED or isinstance(item, Point) else "another class"

def refuses(state):
    raise Refused("no")
"""


def cell() -> SimpleNamespace:
    """The names of a notebook's cell, whose module cannot be imported."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec(CELL, names)
    return SimpleNamespace(**names)


def run(target: Any, xs: list[Any], engine: Any, **options: Any) -> Any:
    return vmap(target, batch_key="xs", out_key="ys", executor=engine, **options).invoke({"xs": xs})["ys"]


def test_classes_of_a_notebook_are_the_same_in_the_target_and_in_items(engine: Any) -> None:
    here = cell()
    found = run(here.compares, [here.Color.RED, here.Point(3)], engine)
    assert found[0] is here.Color.RED
    assert found[1] == here.Point(3)


def test_an_error_of_a_class_of_a_notebook_keeps_its_class(engine: Any) -> None:
    here = cell()
    with pytest.raises(here.Refused, match="no"):
        run(here.refuses, [1], engine)


def test_an_error_keeps_its_class_whose_constructor_takes_other_arguments(engine: Any) -> None:
    with pytest.raises(targets.Status, match="gone") as raised:
        run(targets.answers_with_a_status, [1], engine)
    assert raised.value.code == 410
    assert not hasattr(raised.value, "connection")
    assert any("in a worker" in note for note in raised.value.__notes__)


def test_an_error_that_cannot_be_told_is_named(engine: Any) -> None:
    with pytest.raises(EdgeError, match="Silent: <exception str"):
        run(targets.is_silent, [1], engine)


@pytest.mark.parametrize("target", [targets.gives_a_lock, targets.gives_what_cannot_be_read])
def test_a_result_that_cannot_cross_fails_its_item_alone(engine: Any, target: Any) -> None:
    found = run(target, list(range(5)), engine, on_error="collect")
    assert [n if is_item_error(one) else one for n, one in enumerate(found)] == list(range(5))
    assert "the result cannot be sent back from a worker" in found[2]["message"]


def test_errors_can_be_results(engine: Any) -> None:
    found = run(targets.gives_an_error, [1, 2], engine)
    assert [type(one) for one in found] == [ValueError, ValueError]
