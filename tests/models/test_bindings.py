"""A binding is a value: it cannot be changed, and it is equal by its model and options."""

import copy
from typing import Any

import pytest

from mahsm import models
from mahsm.testing import FakeLM, ModelServer


def test_a_binding_cannot_be_changed() -> None:
    ask: Any = models.instance("openai/m", temperature=0)
    with pytest.raises(AttributeError, match=r"model='other'.* make another one with models.instance"):
        ask.model = "other"
    with pytest.raises(AttributeError, match="cannot be changed"):
        del ask.model
    with pytest.raises(TypeError, match="does not support item assignment"):
        ask.options["temperature"] = 1
    assert repr(ask) == "ModelBinding('openai/m', temperature=0)"


def test_what_is_given_to_a_binding_can_be_changed_without_effect() -> None:
    headers, stop = {"X-Test": "1"}, ["end"]
    ask = models.instance("openai/m", headers=headers, stop=stop)
    headers["X-Test"] = "2"
    stop.append("more")
    assert repr(ask) == "ModelBinding('openai/m', headers={'X-Test': '1'}, stop=['end'])"


def test_the_order_of_options_does_not_matter_at_any_depth() -> None:
    one = models.instance("openai/m", temperature=0, extra=[{"a": 1, "b": {"c": 1, "d": 2}}])
    other = models.instance("openai/m", extra=[{"b": {"d": 2, "c": 1}, "a": 1}], temperature=0)
    assert (one, hash(one)) == (other, hash(other))
    assert one.client is other.client
    assert one != models.instance("openai/m", temperature=0, extra=[{"a": 1, "b": {"c": 1, "d": 3}}])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_is_the_binding_itself(copied: Any) -> None:
    with ModelServer("x") as server:
        ask = models.instance("openai/m", api_base=server.base_url, cache=False, api_key="sk-given-1")
        copied(ask)("q")
        assert server.calls[0].key == "sk-given-1"
    of_client = models.instance(FakeLM("x"))
    assert copied(of_client) == of_client
