"""Errors of composed functions tell which function got what, and the next step."""

from functools import partial
from typing import Any

import dspy
import pytest

from mahsm import Retry, cache, chain, ensemble, policy_router, retry, timeout, xcs
from mahsm.errors import EdgeError, StateError


def extract(text: str) -> dict[str, str]:
    return {"title": text, "body": text}


def enrich(title: str, author: str) -> str:
    return f"{title} by {author}"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(chain, extract, name="x"), r"chain: name='x'; there is no such argument. It takes none"),
        (partial(ensemble, extract, weight=[1]), r"ensemble: weight=.* Did you mean 'weights'\?"),
        (partial(retry, attempts=3), r"retry: attempts=3; .* Did you mean 'max_attempts'\?"),
        (partial(retry, extract, base=0), r"retry: base=0; .* Pass policy=Retry\(attempts=3, ...\)"),
        (partial(timeout, extract, timeout=3), r"timeout: timeout=3; .* Pass seconds="),
        (partial(cache, maxsize=3), r"cache: maxsize=3; .* Did you mean 'max_size'\?"),
        (partial(policy_router, extract, label=["a"]), r"policy_router: label=.* Did you mean 'labels'\?"),
        (partial(xcs.jit, cache=True), r"xcs.jit: cache=True; .* Decorate the function: @mahsm.cache"),
        (partial(xcs.jit, max_attempts=3), r"xcs.jit: max_attempts=3; .* Pass retry=Retry\(attempts=3\)"),
        (partial(xcs.vmap, extract, on_error="drop"), r"xcs.vmap: on_error='drop'; .* An edge has it"),
        (partial(xcs.vmap, extract, retry=3), r"xcs.vmap: retry=3; .* Map mahsm.retry\(function\)"),
    ],
)
def test_an_unknown_option_names_the_one_that_was_meant(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    ("function", "args", "message"),
    [
        (chain(len, enrich), ("abc",), r"enrich: got 3, of type int, for its parameters 'title', 'author'"),
        (retry(enrich), ("abc",), r"enrich: got 'abc'.*expected an argument for each, or one dict"),
        (retry(dspy.Predict("topic -> essay")), ("tea",), r"got 'tea'.*its input fields 'topic'.*by name"),
    ],
)
def test_a_value_that_stands_for_no_arguments_is_shown(function: Any, args: Any, message: str) -> None:
    with pytest.raises(StateError, match=message):
        function(*args)


def test_a_missing_argument_is_shown_with_those_that_there_are() -> None:
    with pytest.raises(TypeError, match=r"enrich: .*no key 'author'; it has 'title', 'body'. It needs 'tit"):
        chain(extract, enrich)("tea")


@pytest.mark.parametrize("on", ["429", [ValueError], (ValueError, 3), int, ()])
def test_what_retries_go_by_is_checked_when_they_are_made(on: Any) -> None:
    if on == ():
        assert not Retry(on=on).retries(ValueError())
        return
    for make in (Retry, partial(retry, extract)):
        with pytest.raises(EdgeError, match=r"Retry: on=.*; expected exception types, such as \(Connection"):
            make(on=on)


def test_seconds_of_a_cache_have_a_name() -> None:
    with pytest.raises(TypeError, match=r"cache: got 60; expected a function.* write @cache\(ttl=60\)"):
        cache(60)


def test_a_composed_function_is_shown_as_it_was_written() -> None:
    function = cache(timeout(retry(chain(extract, ensemble(str.upper, dspy.Predict("a -> b")))), 30))
    assert repr(function) == "cache(timeout(retry(chain(extract, ensemble(upper, Predict)))))"
