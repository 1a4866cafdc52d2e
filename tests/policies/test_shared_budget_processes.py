"""A budget that several processes share: exact calls, kills, ends of processes, and Redis that is down."""

import asyncio
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis

from mahsm import Budget, budget, is_item_error, limits, vmap
from mahsm._redis import server_of
from mahsm.errors import BudgetExceeded, LimitError
from mahsm.policies._account import account_of
from mahsm.policies._internal import check_budgets
from tests.limits.redis_process import redis_process, until

SPENDER = """
import sys
from mahsm import Budget, limits, vmap

url, name, items, bounds = sys.argv[1:]


def call(state):
    limits.report(input_tokens=100, usd=0.01)
    print("call", flush=True)


options = {"on_error": "drop", "max_concurrency": 8, "budget": Budget(shared=url, name=name, **eval(bounds))}
edge = vmap(call, batch_key="xs", out_key="ys", **options)
print("ready", flush=True)
sys.stdin.readline()
edge.invoke({"xs": list(range(int(items)))})
"""


def spend(socket: str, name: str, processes: int, items: int, **bounds: float) -> list[subprocess.Popen[str]]:
    given = [sys.executable, "-c", SPENDER, f"unix://{socket}", name, str(items), repr(bounds)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(given, **pipes) for _ in range(processes)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return started


def calls_of(processes: list[subprocess.Popen[str]]) -> int:
    return sum(process.communicate()[0].count("call") for process in processes)


def spent(socket: str, name: str) -> dict[str, float]:
    with redis.Redis(unix_socket_path=socket, decode_responses=True) as client:
        found: Any = client.hgetall(f"mahsm:budget:{{{name}}}")
    return {field: float(found[field]) for field in ("usd", "tokens", "calls")}


def test_calls_are_exact_and_all_of_it_is_sent_when_a_process_ends(redis_server: str, name: str) -> None:
    assert calls_of(spend(redis_server, name, 3, 60, calls=100)) == 100
    assert spent(redis_server, name) == {
        "usd": pytest.approx(1.0),
        "tokens": pytest.approx(10_000),
        "calls": pytest.approx(100),
    }


def test_money_is_exact_to_what_is_in_flight(redis_server: str, name: str) -> None:
    made = calls_of(spend(redis_server, name, 3, 100, usd=0.5))
    assert 50 <= made <= 50 + 3 * 8
    assert spent(redis_server, name)["usd"] == pytest.approx(0.01 * made)


def test_a_process_that_is_killed_never_makes_room_for_more(redis_server: str, name: str) -> None:
    processes = spend(redis_server, name, 3, 1000, calls=300)
    assert processes[0].stdout is not None
    made = sum(processes[0].stdout.readline() == "call\n" for _ in range(20))
    processes[0].kill()
    made += calls_of(processes)
    # What it had in flight is lost.
    assert 300 - 16 <= made <= 300


def test_nothing_begins_while_redis_is_down(name: str, tmp_path: Path) -> None:
    with redis_process(tmp_path) as server:
        options: Any = {"batch_key": "xs", "out_key": "ys", "on_error": "collect"}
        options["budget"] = Budget(calls=10, shared=server.url, name=name)
        made: list[int] = []
        edge = vmap(lambda state: made.append(state["item"]), **options)
        edge.invoke({"xs": [1]})
        server.kill()
        found = edge.with_(deadline=0.3).invoke({"xs": [2, 3]})["ys"]
        assert [is_item_error(entry) and entry["type"] for entry in found] == ["TimeoutError"] * 2
        assert made == [1]
        with (
            budget(calls=10, shared=server.url, name=name),
            pytest.raises(BudgetExceeded, match="cannot be reached, so it is not known whether it is spent"),
        ):
            check_budgets()
        server.start()
        edge.invoke({"xs": [4]})
        assert made == [1, 4]
        with redis.Redis.from_url(server.url) as client:
            assert client.hget(f"mahsm:budget:{{{name}}}", "calls") == b"2"


def test_what_a_server_that_hangs_has_heard_counts_once(name: str, tmp_path: Path) -> None:
    def call(state: Any) -> int:
        limits.report(input_tokens=10)
        return state["item"]

    with redis_process(tmp_path) as server:
        url = f"{server.url}?socket_timeout=0.2"
        shared = Budget(calls=100, shared=url, name=name)
        edge = vmap(call, batch_key="xs", out_key="ys", budget=shared, max_concurrency=8)
        edge.invoke({"xs": [1]})
        server.stop()
        thread = Thread(target=edge.invoke, args=[{"xs": list(range(20))}])
        thread.start()
        until(lambda: server_of(url, server.url).is_down)
        server.go_on()
        thread.join()
        account_of(url, server.url, name).flush(60)
        with redis.Redis.from_url(server.url) as client:
            assert client.hmget(f"mahsm:budget:{{{name}}}", "calls", "tokens") == [b"21", b"210"]


async def test_those_that_wait_begin_when_redis_is_back(name: str, tmp_path: Path) -> None:
    async def call(state: Any) -> int:
        limits.report(input_tokens=10)
        return state["item"]

    with redis_process(tmp_path) as server:
        shared = Budget(tokens=30, shared=server.url, name=name)
        edge = vmap(call, batch_key="xs", out_key="ys", budget=shared, on_error="drop", max_concurrency=1)
        server.kill()
        async with asyncio.TaskGroup() as group:
            run = group.create_task(edge.ainvoke({"xs": [1, 2, 3, 4, 5]}))
            await asyncio.wait([run], timeout=0.3)
            assert not run.done()
            await asyncio.to_thread(server.start)
        assert run.result() == {"ys": [1, 2, 3]}


def test_a_wrong_password_is_an_error_and_is_not_shown(name: str, tmp_path: Path) -> None:
    with redis_process(tmp_path, password="righ7-One") as server:
        url = server.url.replace("righ7-One", "wr0ng-One")
        edge = vmap(
            lambda state: state["item"],
            batch_key="xs",
            out_key="ys",
            budget=Budget(calls=10, shared=url, name=name),
        )
        with pytest.raises(LimitError, match=f"the budget '{name}' cannot be shared: redis://127") as caught:
            edge.invoke({"xs": [1]})
        assert "wr0ng" not in str(caught.value)


def test_a_fork_spends_it_too(redis_server: str, name: str) -> None:
    script = f"""
import os
from mahsm import Budget, vmap

def run():
    shared = Budget(calls=5, shared="unix://{redis_server}", name="{name}")
    edge = vmap(lambda state: state["item"], batch_key="xs", out_key="ys", budget=shared, on_error="drop")
    return len(edge.invoke({{"xs": [1, 2]}})["ys"])

assert run() == 2
if (child := os.fork()) == 0:
    os._exit(run())
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
assert run() == 1
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
