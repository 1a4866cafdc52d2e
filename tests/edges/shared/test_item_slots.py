"""Slots that an item lends to the edges inside it."""

import threading

import pytest

from mahsm._waiting import THREAD, Slots, StopCallbacks, run_blocking
from mahsm.edges._shared.items import Item


@pytest.fixture
def slots() -> Slots:
    return Slots(1)


@pytest.fixture
def item(slots: Slots) -> Item:
    made = Item((0,), (slots,), StopCallbacks())
    assert made.take_now()
    return made


def test_lent_slots_are_taken_back_after_the_last_edge(item: Item, slots: Slots) -> None:
    item.lend()
    item.lend()
    assert slots.free == 1
    run_blocking(item.take_back(THREAD))
    assert slots.free == 1
    run_blocking(item.take_back(THREAD))
    assert slots.free == 0
    item.give()
    assert slots.free == 1


def test_slots_are_not_taken_back_after_the_end_of_the_call(item: Item, slots: Slots) -> None:
    """A thread goes on in the item although its task was cancelled."""
    item.lend()
    item.give()
    run_blocking(item.take_back(THREAD))
    assert slots.free == 1


def test_slots_that_come_after_the_end_of_the_call_are_given_back(item: Item, slots: Slots) -> None:
    item.lend()
    assert slots.try_acquire()
    thread = threading.Thread(target=lambda: run_blocking(item.take_back(THREAD)))
    thread.start()
    item.give()
    slots.release()
    thread.join(10)
    assert not thread.is_alive()
    assert slots.free == 1


def test_edges_that_end_one_after_the_other_take_one_slot(item: Item, slots: Slots) -> None:
    """The second one begins and ends while the first one waits for the slot."""
    item.lend()
    assert slots.try_acquire()
    thread = threading.Thread(target=lambda: run_blocking(item.take_back(THREAD)))
    thread.start()
    while not slots._line:
        pass
    item.lend()
    run_blocking(item.take_back(THREAD))
    slots.release()
    thread.join(10)
    assert not thread.is_alive()
    item.give()
    assert slots.free == 1
