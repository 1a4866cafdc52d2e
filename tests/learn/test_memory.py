import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from typing_extensions import TypedDict

from mahsm import connect
from mahsm.errors import LearnError
from mahsm.learn import Router, route

ARMS = ["a", "b", "c"]


@pytest.fixture(params=["file", "memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "sqlite":
        with SqliteStore.from_conn_string(str(tmp_path / "store.sqlite")) as store:
            store.setup()
            yield store
    else:
        yield tmp_path / "router.jsonl" if request.param == "file" else InMemoryStore()


def steps(router: Router, count: int, begin: int = 0) -> None:
    for number in range(begin, begin + count):
        choice = router.route([number % 7 / 7, number % 3])
        router.reward(choice.id, number % 5 / 5)


def test_what_was_learned_survives_a_restart(store: Any) -> None:
    plain, kept = Router(ARMS), Router(ARMS, store=store)
    steps(plain, 20)
    steps(kept, 10)
    again = Router(ARMS, store=store)
    assert (again.weights == kept.weights).all()
    steps(again, 10, 10)
    assert (again.weights == plain.weights).all()
    assert (again.inverse == plain.inverse).all()


def test_late_rewards_are_accepted_after_a_restart(store: Any) -> None:
    first = Router(ARMS, store=store)
    choices = [first.route([1.0]) for _ in range(5)]
    first.reward(choices[3].id, 1.0)
    second = Router(ARMS, store=store)
    second.reward(choices[1].id, 1.0)
    third = Router(ARMS, store=store)
    for number in (1, 3):
        with pytest.raises(LearnError, match="has its reward already"):
            third.reward(choices[number].id, 1.0)
    for number in (4, 0, 2):
        third.reward(choices[number].id, 1.0)
    assert third.route([1.0]).id not in {choice.id for choice in choices}


def test_many_events_become_a_state(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("_journal", "_in_store"):
        monkeypatch.setattr(f"mahsm.learn.{module}._LONG", 7)
    plain, kept = Router(ARMS), Router(ARMS, store=store)
    late = kept.route([0.0, 0.0])
    plain_late = plain.route([0.0, 0.0])
    for router in (plain, kept):
        steps(router, 40)
    again = Router(ARMS, store=store)
    assert (again.weights == plain.weights).all()
    again.reward(late.id, 1.0)
    plain.reward(plain_late.id, 1.0)
    assert (again.weights == plain.weights).all()
    if isinstance(store, Path):
        assert len(store.read_text().splitlines()) < 15
    else:
        assert len(store.search(("mahsm",), limit=100)) < 15


def test_arms_are_those_of_the_program(store: Any) -> None:
    first = Router(ARMS, store=store)
    steps(first, 12)
    first.add_arm("d")
    late = first.route([0.0, 0.0])
    second = Router(["a", "d", "e"], store=store)
    assert sorted(second.labels) == ["a", "d", "e"]
    weights = dict(zip(second.labels, second.weights, strict=True))
    assert (weights["a"] == first.weights[0]).all()
    assert not weights["e"].any()
    second.reward(late.id, 1.0)


def test_choices_that_made_room_are_forgotten(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Router(ARMS, store=store, max_waiting=2)
    choices = [first.route() for _ in range(4)]
    second = Router(ARMS, store=store, max_waiting=2)
    for choice in choices[:2]:
        with pytest.raises(LearnError, match="already"):
            second.reward(choice.id, 1.0)
    for choice in choices[2:]:
        second.reward(choice.id, 1.0)
    second.add_arm("d")
    if not isinstance(store, Path):
        assert [item.key for item in store.search(("mahsm",))] == ["state"]


def test_dims_may_be_named_after_a_restart_without_choices(store: Any) -> None:
    Router(ARMS, store=store)
    assert Router([*ARMS, "d"], store=store, dims=2).weights.shape == (4, 3)


def test_an_empty_file_is_a_new_router(tmp_path: Path) -> None:
    (tmp_path / "router.jsonl").touch()
    Router(ARMS, store=tmp_path / "router.jsonl").route()


def test_a_fit_is_kept(store: Any) -> None:
    Router(ARMS, store=store).fit([{"arm": "b", "reward": 1.0, "features": [1.0]}] * 9)
    assert Router(ARMS, store=store).best([1.0]) == "b"


def test_other_features_are_refused(store: Any) -> None:
    Router(ARMS, store=store, dims=2).route([0.0, 0.0])
    with pytest.raises(LearnError, match="dims=3, and the store has 2"):
        Router(ARMS, store=store, dims=3)


def test_routers_in_one_store_have_names() -> None:
    store = InMemoryStore()
    one, other = (Router(ARMS, store=store, name=name) for name in ("one", "other"))
    choice = one.route()
    with pytest.raises(LearnError, match="unknown"):
        other.reward(choice.id, 1.0)
    with pytest.raises(LearnError, match=r"name='a\.b'; expected a string without dots"):
        Router(ARMS, store=store, name="a.b")


def test_an_event_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "router.jsonl"
    router = Router(ARMS, store=path)
    steps(router, 5)
    weights = router.weights.copy()
    with path.open("a") as file:
        file.write('{"chose": 5, "arm": "a", "fea')
    assert (Router(ARMS, store=path).weights == weights).all()


@pytest.mark.parametrize("content", ["not a router\n", '{"format": 99}\n', "[]\n", "no line break"])
def test_other_files_are_refused_and_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(content)
    with pytest.raises(LearnError, match="store="):
        Router(ARMS, store=path)
    assert path.read_text() == content


def test_an_error_while_saving_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "router.jsonl"
    router = Router(ARMS, store=path)
    steps(router, 5)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space left"):
            router.add_arm("d")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["router.jsonl"]


def test_an_event_that_cannot_be_written_has_no_effect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "router.jsonl"
    router = Router(ARMS, store=path)
    choice = router.route([1.0])
    before, weights = path.read_bytes(), router.weights.copy()
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda file, line: write(file, line[:5]))
        with pytest.raises(OSError, match="only 5 of"):
            router.reward(choice.id, 1.0)
    assert path.read_bytes() == before
    assert (router.weights == weights).all()
    router.reward(choice.id, 1.0)


WORKER = """
import sys
from mahsm.learn import Router, _journal
_journal._LONG = 3
router = Router(["a", "b", "c"], store=sys.argv[1])
for number in range(100_000):
    choice = router.route([number % 7 / 7, number % 3])
    router.reward(choice.id, number % 5 / 5)
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 23, 60])
def test_a_kill_leaves_the_old_or_the_new_state(tmp_path: Path, at: int) -> None:
    path = tmp_path / "router.jsonl"
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(path)], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    for _ in range(at):
        worker.stdout.readline()
    os.kill(worker.pid, signal.SIGKILL)
    acknowledged = at + len(worker.communicate()[0].splitlines())
    again = Router(ARMS, store=path)
    learned = json.loads(path.read_text().splitlines()[0])["rewards"]
    assert learned in (acknowledged, acknowledged + 1)
    plain = Router(ARMS)
    steps(plain, learned)
    assert (again.weights == plain.weights).all()
    assert np.array_equal(again.inverse, plain.inverse)
    steps(again, 5, learned)


KILLED_WHILE_SAVING = """
import os, signal, sys
from mahsm.learn import _journal
name, when, left = sys.argv[2], sys.argv[3], 7
ordinary = getattr(os, name)

def at_last_killed(*given):
    global left
    left -= 1
    if when == "after" and left == 0:
        ordinary(*given)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return ordinary(*given)

setattr(os, name, at_last_killed)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_kill_while_a_state_is_saved_leaves_the_old_or_the_new_one(
    tmp_path: Path, call: str, when: str
) -> None:
    path = tmp_path / "router.jsonl"
    code = KILLED_WHILE_SAVING + WORKER
    worker = subprocess.run(
        [sys.executable, "-c", code, str(path), call, when], stdout=subprocess.PIPE, check=False
    )
    assert worker.returncode == -signal.SIGKILL
    acknowledged = len(worker.stdout.splitlines())
    again, plain = Router(ARMS, store=path), Router(ARMS)
    assert json.loads(path.read_text().splitlines()[0])["rewards"] == acknowledged > 0
    steps(plain, acknowledged)
    assert (again.weights == plain.weights).all()
    assert np.array_equal(again.inverse, plain.inverse)


KILLED_AFTER_ITS_CHOICE = """
import os, signal, sys
from langgraph.checkpoint.sqlite import SqliteSaver
from tests.learn.test_memory import graph_of

def target(state):
    os.kill(os.getpid(), signal.SIGKILL)

with SqliteSaver.from_conn_string(sys.argv[1]) as saver:
    graph = graph_of(sys.argv[2], target, saver)
    graph.invoke({"x": [1.0, 2.0]}, {"configurable": {"thread_id": "1"}}, durability="sync")
"""


class State(TypedDict, total=False):
    x: list[float]
    y: str
    choice: dict[str, Any]


def graph_of(path: str, target: Any, saver: Any) -> Any:
    router = Router(ARMS, head="thompson", min_explore=1.0, store=path)
    edge = route(router, dict.fromkeys(ARMS, target), key="x")
    return connect(StateGraph(State), START, edge, END).compile(checkpointer=saver)


@pytest.mark.slow
def test_a_run_that_was_killed_keeps_its_choice_and_its_router_takes_the_reward(tmp_path: Path) -> None:
    saved, path = str(tmp_path / "runs.sqlite"), str(tmp_path / "router.jsonl")
    worker = subprocess.run([sys.executable, "-c", KILLED_AFTER_ITS_CHOICE, saved, path], check=False)
    assert worker.returncode == -signal.SIGKILL
    [chosen] = [json.loads(line) for line in Path(path).read_text().splitlines()[1:]]
    with SqliteSaver.from_conn_string(saved) as saver:
        graph = graph_of(path, lambda state: {"y": "done"}, saver)
        found = graph.invoke(None, {"configurable": {"thread_id": "1"}})
    assert (found["y"], found["choice"]["arm"], found["choice"]["features"]) == (
        "done",
        chosen["arm"],
        chosen["features"],
    )
    router = Router(ARMS, store=path)
    router.reward(found["choice"]["id"], 1.0)
    with pytest.raises(LearnError, match="has its reward already"):
        Router(ARMS, store=path).reward(found["choice"]["id"], 1.0)


def test_a_store_that_was_left_between_its_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    store, kept = InMemoryStore(), {}
    first = Router(ARMS, store=store)
    steps(first, 4)
    delete: Callable[..., None] = InMemoryStore.delete
    # A restart saves the state and then deletes the choices in it; the process ends between.
    monkeypatch.setattr(InMemoryStore, "delete", lambda self, namespace, key: kept.setdefault(key, 1))
    second = Router(ARMS, store=store)
    monkeypatch.setattr(InMemoryStore, "delete", delete)
    assert len(kept) == 4
    third = Router(ARMS, store=store)
    assert (third.weights == first.weights).all()
    assert (second.weights == first.weights).all()
