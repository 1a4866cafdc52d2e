"""`parallel`: the order of many branches."""

from typing import Any

import pytest

from mahsm import Branch, parallel
from mahsm.edges._parallel import waves
from mahsm.errors import EdgeError


def chain(count: int, **options: Any) -> Any:
    def step(state: Any) -> Any:
        return {"n": state["n"] + 1}

    branches = [Branch(step, name=f"b{at}", after=[f"b{at - 1}"] if at else []) for at in range(count)]
    return parallel(branches[::-1], scheduler="wave", **options)


@pytest.mark.parametrize("eager", [False, True])
def test_a_long_chain_in_reverse(eager: bool) -> None:
    assert chain(30, eager=eager).invoke({"n": 0}) == {"n": 30}


def test_branches_that_are_ready_go_in_the_order_of_the_list() -> None:
    branches = [
        Branch(lambda state: {}, name=name, after=after)
        for name, after in {"d": ["b"], "c": [], "b": ["a"], "a": [], "e": ["c", "d"]}.items()
    ]
    edge: Any = parallel(branches, scheduler="wave", eager=True)
    plan = edge._sync.__wrapped__.__self__.spec.plan
    assert plan.order == ["c", "a", "b", "d", "e"]
    assert [plan.direct(name) for name in "abcde"] == [[], ["a"], [], ["b"], ["c", "d"]]


def test_a_cycle_among_many_is_named() -> None:
    after = {"a": ["c"], "b": ["a"], "c": ["b"], "d": []}
    with pytest.raises(
        EdgeError, match=r"branches wait for each other: c -> a -> b -> c|a -> b -> c -> a|b -> c -> a -> b"
    ):
        parallel(
            [Branch(lambda state: {}, name=name, after=needs) for name, needs in after.items()],
            scheduler="wave",
        )


def test_who_feeds_whom_is_asked_of_those_that_share_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    feeds = waves._feeds
    monkeypatch.setattr(waves, "_feeds", lambda one, two: (asked.append(one), feeds(one, two))[1])
    parallel(
        [
            Branch(lambda state: {}, name=f"b{at}", reads=[f"k{at}"], writes=[f"k{at + 1}"])
            for at in range(100)
        ],
        scheduler="wave",
    )
    assert len(asked) == 99
