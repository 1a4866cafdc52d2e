"""Slots of expected callers are taken in their order, whichever thread comes first."""

import random
import threading
import time

import pytest

from mahsm._waiting import THREAD, Closed, SlotsInOrder, arrivals, run_blocking


def taker(slots: SlotsInOrder, place: int, taken: list[int], ended: list[BaseException]) -> threading.Thread:
    def take() -> None:
        try:
            run_blocking(slots.acquire(THREAD, (place,)))
        except Closed as error:
            ended.append(error)
            return
        taken.append(place)
        slots.release()

    thread = threading.Thread(target=take)
    thread.start()
    return thread


def come(slots: SlotsInOrder, places: list[int]) -> tuple[list[int], list[threading.Thread]]:
    """Let threads come one after the other."""
    taken: list[int] = []
    threads: list[threading.Thread] = []
    for place in places:
        threads.append(taker(slots, place, taken, []))
        while (place,) in slots._missing:
            time.sleep(0)
    return taken, threads


@pytest.mark.parametrize("seed", range(10))
def test_slots_are_taken_in_order(seed: int) -> None:
    places = list(range(20))
    random.Random(seed).shuffle(places)
    slots = SlotsInOrder(1)
    slots.expect((place,) for place in range(20))
    taken, threads = come(slots, places)
    for thread in threads:
        thread.join()
    assert taken == sorted(places)
    assert slots.free == 1
    assert slots.try_acquire()


def test_a_caller_that_takes_none_is_not_waited_for() -> None:
    slots = SlotsInOrder(1)
    slots.expect((place,) for place in range(4))
    taken, threads = come(slots, [3, 1])
    slots.has_come((2,))
    assert taken == []
    slots.has_come((0,))
    for thread in threads:
        thread.join()
    assert taken == [1, 3]
    slots.has_come((0,))
    assert slots.free == 1


def test_a_close_ends_the_wait_for_others() -> None:
    slots, ended = SlotsInOrder(1), list[BaseException]()
    slots.expect((place,) for place in range(2))
    thread = taker(slots, 1, [], ended)
    slots.close(RuntimeError("over"))
    thread.join()
    assert len(ended) == 1
    with pytest.raises(Closed):
        run_blocking(slots.acquire(THREAD, (0,)))


def test_callers_that_never_come_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "_PATIENCE", 0.01)
    slots = SlotsInOrder(1)
    slots.expect((place,) for place in range(3))
    taken: list[int] = []
    threads = [taker(slots, place, taken, []) for place in (1, 2)]
    for thread in threads:
        thread.join()
    assert sorted(taken) == [1, 2]
    assert slots.try_acquire()
