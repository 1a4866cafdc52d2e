import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from mahsm.errors import LearnError
from mahsm.learn import Router

ARMS = ["a", "b", "c", "d"]


def test_a_second_reward_is_an_error() -> None:
    router = Router(ARMS)
    choice = router.route()
    router.reward(choice.id, 1.0)
    before = router.weights.copy()
    with pytest.raises(LearnError, match="has its reward already; expected one reward"):
        router.reward(choice.id, 0.5)
    assert (router.weights == before).all()


@pytest.mark.parametrize("id", ["no", "1234abcd-0", None, 3, "-1", ""])
def test_an_unknown_id_is_an_error(id: Any) -> None:
    router = Router(ARMS)
    router.route()
    with pytest.raises(LearnError, match=r"the id .* is unknown; expected the id of a choice"):
        router.reward(id, 1.0)


def test_ids_that_were_not_given_out_are_unknown() -> None:
    router = Router(ARMS)
    key = router.route().id.rpartition("-")[0]
    with pytest.raises(LearnError, match="is unknown"):
        router.reward(f"{key}-1", 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "good", None])
def test_a_reward_that_is_no_number_leaves_the_choice_waiting(value: Any) -> None:
    router = Router(ARMS)
    choice = router.route()
    with pytest.raises(LearnError, match="expected a finite number"):
        router.reward(choice.id, value)
    router.reward(choice.id, np.float32(0.5))


def test_the_order_of_rewards_does_not_matter() -> None:
    routers = [Router(ARMS, dims=2, head="thompson", seed=0) for _ in range(2)]
    xs = np.random.default_rng(0).normal(size=(60, 2))
    for router, order in zip(routers, (1, -1), strict=True):
        for choice in router.route_all(xs)[::order]:
            router.reward(choice.id, sum(choice.features))
    np.testing.assert_allclose(routers[0].weights, routers[1].weights, atol=1e-10)


def test_too_many_waiting_choices_make_room() -> None:
    router = Router(ARMS, max_waiting=2)
    first, *others = [router.route() for _ in range(3)]
    with pytest.raises(LearnError, match="or made room for the 2 of max_waiting="):
        router.reward(first.id, 1.0)
    for each in others:
        router.reward(each.id, 1.0)


def test_rewards_from_many_threads_and_two_loops_are_learned_once() -> None:
    router = Router(ARMS, head="thompson", seed=0)
    ids: list[str] = []
    learned: list[str] = []
    refused: list[str] = []
    begin = threading.Barrier(18)

    def reward(id: str) -> None:
        try:
            router.reward(id, 1.0)
            learned.append(id)
        except LearnError:
            refused.append(id)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        begin.wait()
        for choice in [router.route() for _ in range(50)]:
            ids.append(choice.id)
            reward(rng.choice(ids))  # perhaps of another thread, perhaps a second one
            reward(choice.id)

    async def one() -> None:
        choice = router.route()
        ids.append(choice.id)
        await asyncio.sleep(0)
        reward(choice.id)

    async def many() -> None:
        begin.wait()
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(one())

    with ThreadPoolExecutor(18) as pool:
        running = [pool.submit(work, seed) for seed in range(16)]
        running += [pool.submit(lambda: asyncio.run(many())) for _ in range(2)]
        for each in running:
            each.result()
    assert sorted(learned) == sorted(ids)
    assert len({*learned}) == 900
    assert len(refused) == 800
    # An arm without features has learned as many rewards as 1 / inverse tells, less the prior's 1.
    assert sum(round(1 / float(inverse[0, 0])) - 1 for inverse in router.inverse) == 900
