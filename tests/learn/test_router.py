import asyncio
import copy
import pickle
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding

from mahsm import vmap
from mahsm.errors import LearnError
from mahsm.learn import Router
from mahsm.operators import load, save

ARMS = ["a", "b", "c"]


def rewarded(router: Router, steps: int, seed: int = 0, dims: int = 3) -> Router:
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        x = rng.normal(size=dims)
        choice = router.route(x)
        router.reward(choice.id, x[0] * (choice.arm == "a") + rng.random())
    return router


@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.floats(-3, 3), min_size=2, max_size=2), st.floats(-2, 2), st.sampled_from(ARMS)
        ),
        max_size=30,
    )
)
@settings(max_examples=50, deadline=None)
def test_it_chooses_as_linucb_that_solves_each_system(rows: list[tuple[list[float], float, str]]) -> None:
    router = Router(ARMS, dims=2)
    squares = {arm: np.eye(3) for arm in ARMS}
    sums = {arm: np.zeros(3) for arm in ARMS}
    for x, value, _ in rows:
        z = np.array([*x, 1.0])
        bounds = {
            arm: float(
                np.linalg.solve(squares[arm], sums[arm]) @ z
                + 0.5 * np.sqrt(z @ np.linalg.solve(squares[arm], z))
            )
            for arm in ARMS
        }
        choice = router.route(x)
        assert bounds[choice.arm] >= max(bounds.values()) - 1e-9
        router.reward(choice.id, value)
        squares[choice.arm] += np.outer(z, z)
        sums[choice.arm] += value * z
    for place, arm in enumerate(ARMS):
        np.testing.assert_allclose(router.inverse[place], np.linalg.inv(squares[arm]), atol=1e-8)
        np.testing.assert_allclose(router.weights[place], np.linalg.solve(squares[arm], sums[arm]), atol=1e-8)


@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.floats(-3, 3), min_size=2, max_size=2), st.floats(-2, 2), st.sampled_from(ARMS)
        ),
        max_size=30,
    )
)
@settings(max_examples=50, deadline=None)
def test_fit_is_ridge_regression_for_each_arm(rows: list[tuple[list[float], float, str]]) -> None:
    router = Router(ARMS, dims=2)
    router.fit([{"features": x, "reward": value, "arm": arm} for x, value, arm in rows])
    for place, arm in enumerate(ARMS):
        z = np.array([[*x, 1.0] for x, _, of in rows if of == arm]).reshape(-1, 3)
        y = np.array([value for _, value, of in rows if of == arm])
        expected = np.linalg.solve(z.T @ z + np.eye(3), z.T @ y)
        np.testing.assert_allclose(router.weights[place], expected, atol=1e-8)


@pytest.mark.parametrize("head", ["linucb", "thompson"])
def test_it_learns_which_arm_is_best(head: Any) -> None:
    router = Router(["low", "high"], head=head, seed=0)
    for x in np.random.default_rng(0).uniform(-1, 1, 300):
        choice = router.route([x])
        router.reward(choice.id, (choice.arm == "high") == (x > 0))
    assert (router.best([-0.8]), router.best([0.8])) == ("low", "high")


def test_without_features_it_is_a_bandit() -> None:
    router = Router(ARMS, seed=0)
    for _ in range(100):
        choice = router.route()
        router.reward(choice.id, choice.arm == "b")
    assert router.best() == "b"


def test_a_thompson_batch_goes_to_several_arms_and_a_linucb_batch_to_one() -> None:
    def arms(head: Any) -> set[str]:
        return {choice.arm for choice in Router(ARMS, head=head, seed=0).route_all(np.zeros((50, 2)))}

    assert arms("thompson") == {*ARMS}
    assert arms("linucb") == {"a"}


def test_a_batch_of_none() -> None:
    assert Router(ARMS).route_all([]) == []


def test_a_batch_of_linucb_chooses_as_single_calls() -> None:
    router = rewarded(Router(ARMS, seed=0), 40)
    xs = np.random.default_rng(1).normal(size=(20, 3))
    assert [each.arm for each in router.route_all(xs)] == [router.route(x).arm for x in xs]


def test_the_propensity_of_linucb_is_exact() -> None:
    router = Router(ARMS, min_explore=0.3, seed=0)
    expected = {"a": 0.8, "b": 0.1, "c": 0.1}
    chosen = [router.route() for _ in range(600)]
    assert {each.arm: round(each.propensity, 9) for each in chosen} == expected
    shares = {arm: sum(each.arm == arm for each in chosen) / 600 for arm in ARMS}
    assert shares == pytest.approx(expected, abs=0.07)
    assert router.probabilities() == pytest.approx(expected)
    assert {each.arm: round(each.propensity, 9) for each in router.route_all([None] * 300)} == expected


@pytest.mark.parametrize("min_explore", [0.0, 0.2])
def test_inverse_propensities_of_thompson_are_right_on_average(min_explore: float) -> None:
    router = Router(ARMS, head="thompson", seed=0, min_explore=min_explore)
    router.fit([{"arm": arm, "reward": value} for arm, value in zip(ARMS, (0.6, 0.5, 0.4), strict=True)] * 5)
    single = [router.route() for _ in range(2000)]
    for choices in (single, router.route_all([None] * 2000)):
        for arm in ARMS:
            weights = [each.arm == arm and 1 / each.propensity for each in choices]
            assert np.mean(weights) == pytest.approx(1.0, abs=0.2)
        assert all(0 < each.propensity <= 1 for each in choices)


def test_the_probabilities_of_thompson_are_its_shares() -> None:
    router = Router(ARMS, head="thompson", seed=0, min_explore=0.3)
    router.fit([{"arm": "a", "reward": 1.0}] * 20)
    found = router.probabilities()
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["a"] > 0.75
    assert min(found.values()) == pytest.approx(0.1, abs=0.05)


def test_prices_count_in_choices_and_can_be_a_function() -> None:
    for cost in ({"a": 0.5, "b": 0.0, "c": 0.9}, lambda arm: 0.0 if arm == "b" else 1.0):
        router = Router(ARMS, cost=cost)
        router.fit([{"arm": arm, "reward": 0.8} for arm in ARMS for _ in range(20)])
        assert router.best() == "b"
    weighed = Router(["a", "b"], cost={"a": 1.0, "b": 0.0}, cost_weight=0.1)
    weighed.fit([{"arm": arm, "reward": value} for arm, value in (("a", 1.0), ("b", 0.8))] * 50)
    assert weighed.best() == "a"


def test_forgetting_follows_arms_that_change() -> None:
    def best(forget: float) -> str:
        router = Router(["a", "b"], forget=forget)
        for good in ("a", "b"):
            for _ in range(300):
                choice = router.route()
                router.reward(choice.id, choice.arm == good)
        return router.best()

    assert best(0.98) == "b"
    assert best(1.0) == "a"


def test_what_is_never_chosen_stays_finite_while_forgetting() -> None:
    router = Router(["a", "b"], forget=0.5, explore=0.0)
    router.fit([{"arm": "a", "reward": 1.0, "features": [1.0]}] * 3000)
    assert np.isfinite(router.inverse).all()
    assert np.trace(router.inverse[1]) <= 2.0 + 1e-9


def test_features_by_a_function_and_by_embedders() -> None:
    assert len(Router(ARMS, features=lambda state: [len(state["q"])]).route({"q": "Who?"}).features) == 1
    calls: list[int] = []

    def embed(texts: list[str]) -> Any:
        calls.append(len(texts))
        return np.array([[len(text), *range(99)] for text in texts], np.float32) / 100

    embedders = [
        dspy.Embedder(embed, batch_size=50, caching=False),
        DeterministicFakeEmbedding(size=100),
    ]
    for features in embedders:
        router = Router(ARMS, features=features)
        one = router.route("Who?")
        assert len(one.features) == 64
        many = router.route_all(["Who?", "What?", "Why?"])
        assert many[0].features == pytest.approx(one.features)
    assert calls == [1, 3]


def test_the_projection_is_the_same_in_each_router() -> None:
    made = [Router(ARMS, features=DeterministicFakeEmbedding(size=80), seed=seed) for seed in (0, 1)]
    first, second = (router.route("Who?").features for router in made)
    assert first == second


def test_arms_come_and_go() -> None:
    router = rewarded(Router(ARMS, seed=0, cost=lambda arm: 0.0), 30)
    late = router.route([0.0, 0.0, 0.0])
    router.remove_arm(late.arm)
    router.add_arm("d", price=0.1)
    assert router.labels == (*(arm for arm in ARMS if arm != late.arm), "d")
    router.reward(late.id, 1.0)
    with pytest.raises(LearnError, match="already"):
        router.reward(late.id, 1.0)
    assert rewarded(router, 30).weights.shape == (3, 4)
    assert {router.route([0, 0, 0]).arm for _ in range(3)} <= {*router.labels}


def test_saved_and_loaded_it_decides_alike(tmp_path: Path) -> None:
    router = rewarded(Router(ARMS, seed=0), 50)
    save(tmp_path / "router", router)
    copies = [
        load(tmp_path / "router", Router(ARMS, dims=3)),
        copy.deepcopy(router),
        pickle.loads(pickle.dumps(router)),
    ]
    x = [0.3, -0.2, 0.1]
    before = router.weights.copy()
    for each in copies:
        assert each.best(x) == router.best(x)
        assert each.route(x).arm == router.route(x).arm
        rewarded(each, 5)
    assert (router.weights == before).all()


def test_a_copy_with_other_prices_has_learned_the_same() -> None:
    router = Router(["a", "b"], cost={"a": 0.0, "b": 0.0})
    router.fit([{"arm": arm, "reward": value} for arm, value in (("a", 0.8), ("b", 0.7))] * 50)
    choice = router.route()
    dear = router.update_params(cost={"a": 0.5, "b": 0.0})
    assert (router.best(), dear.best()) == ("a", "b")
    with pytest.raises(LearnError, match="unknown"):
        dear.reward(choice.id, 1.0)
    router.reward(choice.id, 1.0)


def test_a_log_with_a_wrong_row_teaches_nothing() -> None:
    router = Router(["a"], dims=1)
    with pytest.raises(LearnError, match="the input has 2 features; expected 1"):
        router.fit([{"arm": "a", "features": features, "reward": 1.0} for features in ([1.0], [1.0, 2.0])])
    assert not router.weights.any()


def test_a_file_of_other_arms_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "router", Router(ARMS, dims=1))
    with pytest.raises(ValueError, match="labels"):
        load(tmp_path / "router", Router(["a", "b", "d"], dims=1))


def test_it_is_a_target_of_an_edge() -> None:
    router = Router(ARMS, features=lambda state: [state["item"]], head="thompson", seed=0)
    edge = vmap(router, batch_key="xs", out_key="ys")
    choices = edge.invoke({"xs": [0.1] * 12})["ys"]
    assert len({choice["id"] for choice in choices}) == 12
    router.reward(choices[0]["id"], 1.0)
    assert asyncio.run(router.acall({"item": 0.3})).arm in ARMS


def test_the_same_seed_makes_the_same_choices() -> None:
    first, second = (rewarded(Router(ARMS, head="thompson", seed=3), 60) for _ in range(2))
    assert (first.weights == second.weights).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arms": []}, r"arms=\[\]; expected different names"),
        ({"arms": "ab"}, "arms='ab'"),
        ({"arms": ["a", "a"]}, "different names"),
        ({"head": "neural"}, "head='neural'; expected 'linucb' or 'thompson'"),
        ({"forget": 0.0}, "forget=0.0"),
        ({"min_explore": 1.5}, r"min_explore=1.5; expected a number in \[0, 1\]"),
        ({"explore": -1}, "explore=-1; expected a number >= 0"),
        ({"cost_weight": float("nan")}, "cost_weight=nan"),
        ({"cost": {"a": 1.0}}, "the price of 'b' is None"),
        ({"cost": lambda arm: "dear"}, "the price of 'a' is 'dear'"),
        ({"dims": -1}, "dims=-1; expected an integer >= 0"),
        ({"seed": "x"}, "seed='x'"),
        ({"max_waiting": 0}, "max_waiting=0"),
        ({"features": 3}, "features=3; expected None for numbers"),
        ({"store": 3}, "store=3; expected the path of a file"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LearnError, match=message):
        Router(**{"arms": ARMS, **arguments})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ("text", "the features are 'text'; expected a list"),
        ([[1.0]], "1-d array"),
        ([float("nan"), 0.0, 0.0], "expected finite numbers"),
        ([1.0], "the input has 1 features; expected 3"),
    ],
)
def test_inputs_are_checked(x: Any, message: str) -> None:
    with pytest.raises(LearnError, match=message):
        Router(ARMS, dims=3).route(x)


def test_a_batch_of_different_inputs_is_refused() -> None:
    with pytest.raises(LearnError, match=r"inputs have \[1, 2\] features"):
        Router(ARMS).route_all([[1.0], [1.0, 2.0]])


def test_an_embedder_that_returns_something_else_is_refused() -> None:
    router = Router(ARMS, features=dspy.Embedder(lambda texts: np.zeros(3), caching=False))
    with pytest.raises((LearnError, ValueError)):
        router.route("text")


def test_changes_of_arms_are_checked() -> None:
    router = Router(["a", "b"], cost={"a": 0.1, "b": 0.2})
    with pytest.raises(LearnError, match="the price of 'c' is None"):
        router.add_arm("c")
    with pytest.raises(LearnError, match="has the arm 'a' already"):
        router.add_arm("a", price=0.0)
    with pytest.raises(LearnError, match="arm='z'; expected one of several"):
        router.remove_arm("z")
    router.remove_arm("a")
    with pytest.raises(LearnError, match="arm='b'; expected one of several"):
        router.remove_arm("b")
    with pytest.raises(LearnError, match="the log has the arm 'a'"):
        router.fit([{"arm": "a", "reward": 1.0}])
