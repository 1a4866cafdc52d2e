"""Whether the whole quota of a provider is used and never exceeded, and what failures, storms, budgets and
stops cost.

The judge is `mahsm.testing.Provider`: a server in a process of its own that keeps a token bucket with the
client's rate and twice the client's burst, and answers 429 to what is beyond it. The calls are those of real
DSPy clients over HTTP.
"""

import asyncio
import gc
import threading
import time
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from dataclasses import dataclass, replace
from typing import Any

import dspy
from aiolimiter import AsyncLimiter
from langchain.agents import create_agent
from langchain_core.rate_limiters import InMemoryRateLimiter
from pyrate_limiter.limiter_factory import create_token_bucket_limiter

from benchmarks import report
from benchmarks.report import Figure
from mahsm import Budget, Edge, RateLimit, Retry, is_item_error, limits, vmap
from mahsm._waiting import TASK, THREAD, run_blocking
from mahsm.limits._registry import bucket, define
from mahsm.reducers import majority_vote
from mahsm.testing import FakeChatModel, Provider, ToolCall

RPS, BURST = 100, 10
ASK = dspy.Predict("item -> answer")
ANSWER = {"answer": "yes"}
AT_ONCE = 64

Rows = list[list[str]]


def ask_edge(**options: Any) -> Edge:
    return vmap(
        ASK, **{"batch_key": "xs", "out_key": "ys", "result": "answer", "max_concurrency": AT_ONCE, **options}
    )


def run(edge: Edge, items: int, mode: str = "async") -> list[Any]:
    state = {"xs": list(range(items))}
    return (asyncio.run(edge.ainvoke(state)) if mode == "async" else edge.invoke(state))["ys"]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    gc.collect()
    began = time.perf_counter()
    value = function()
    return value, time.perf_counter() - began


def warm_up(lm: dspy.LM) -> None:
    """What DSPy imports and connects once is nobody's cost."""
    with dspy.context(lm=lm):
        run(ask_edge(), 16)
        run(ask_edge(), 16, "sync")


# Pace: the whole quota and no 429.


def with_limiter(take: Callable[[], Awaitable[Any]]) -> Callable[[int], None]:
    """What people write by hand: a task per item, a limiter of their own, and a semaphore."""

    async def all_of(items: int) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(item: int) -> None:
            await take()
            async with slots:
                await ASK.acall(item=str(item))

        async with asyncio.TaskGroup() as group:
            for item in range(items):
                group.create_task(one(item))

    return lambda items: asyncio.run(all_of(items))


def our_limit() -> RateLimit:
    limits.forget("judge")
    return RateLimit("judge", rps=RPS, burst=BURST)


def by_vmap(items: int) -> None:
    run(ask_edge(rate_limit=our_limit()), items)


def by_three_edges(items: int) -> None:
    """Two edges in two threads with two loops, and one that is synchronous, share the bucket."""
    limit, part = our_limit(), items // 3
    edges = [ask_edge(rate_limit=limit, name=f"edge{number}") for number in range(3)]
    threads = [threading.Thread(target=copy_context().run, args=(run, edge, part)) for edge in edges[:2]]
    for thread in threads:
        thread.start()
    run(edges[2], items - 2 * part, "sync")
    for thread in threads:
        thread.join()


def by_aiolimiter(items: int) -> None:
    with_limiter(AsyncLimiter(BURST, BURST / RPS).acquire)(items)


def by_langchain(items: int) -> None:
    with_limiter(InMemoryRateLimiter(requests_per_second=RPS, max_bucket_size=BURST).aacquire)(items)


def by_pyrate(items: int) -> None:
    limiter = create_token_bucket_limiter(rate_per_duration=RPS, burst=BURST)
    with_limiter(limiter.try_acquire_async)(items)


PACES: dict[str, Callable[[int], None]] = {
    "vmap": by_vmap,
    "three edges: two loops, one sync": by_three_edges,
    "aiolimiter": by_aiolimiter,
    "LangChain InMemoryRateLimiter": by_langchain,
    "pyrate-limiter": by_pyrate,
}


def pace(items: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    ideal = (items - BURST) / RPS
    rows = [["contender", "wall / ideal", "429s"]]
    found: dict[str, tuple[float, int]] = {}
    for name, contender in PACES.items():
        with Provider(rps=RPS, burst=2 * BURST, answer=ANSWER) as provider:
            with Provider(answer=ANSWER) as elsewhere:
                warm_up(elsewhere.lm())
            failed: list[str] = []
            with dspy.context(lm=provider.lm()):
                try:
                    _, seconds = timed(lambda contender=contender: contender(items))
                except* dspy.LMRateLimitError:
                    seconds = float("nan")
                    failed.append(name)
            refused = provider.report().statuses.get(429, 0)
        found[name] = seconds / ideal, refused
        rows.append([name, "stopped by a 429" if failed else f"{seconds / ideal:.3f}", str(refused)])
    ours, three = found["vmap"], found["three edges: two loops, one sync"]
    return (
        [
            Figure(f"wall / ideal, {items:,} calls, rps={RPS}, burst={BURST}", ours[0], 1.02),
            Figure(f"429s, {items:,} calls", ours[1], 0, "calls"),
            Figure("wall / ideal, three edges: two loops, one sync", three[0], 1.02),
            Figure("429s, three edges", three[1], 0, "calls"),
        ],
        rows,
        found,
    )


# Tokens per minute.


def tokens(seconds: float) -> tuple[list[Figure], Rows, dict[str, Any]]:
    rate, burst = 5_000.0, 5_000.0  # tokens per second, and at once
    rows = [["estimates", "share of the quota used", "most in a window / allowed", "429s"]]
    figures: list[Figure] = []
    found: dict[str, Any] = {}
    with Provider(answer=ANSWER) as elsewhere:
        warm_up(elsewhere.lm())
        with dspy.context(lm=elsewhere.lm()):
            run(ask_edge(), 1)
        real = elsewhere.report().tokens / elsewhere.report().calls
    items = int(rate * seconds / real)
    for name, factor in {"half of the real use": 0.5, "twice the real use": 2.0}.items():
        limits.forget("judge")
        limit = RateLimit("judge", tpm=rate * 60, token_burst=burst, tokens=real * factor)
        with Provider(tpm=rate * 60, token_burst=2 * burst, answer=ANSWER, latency=0.05) as provider:
            with dspy.context(lm=provider.lm()):
                run(ask_edge(rate_limit=limit), items)
            seen = provider.report()
        last = seen.admitted[-1][0]
        used = (seen.tokens - burst) / (rate * last)
        window = most_in_a_window(seen.admitted, rate, 2 * burst)
        refused = seen.statuses.get(429, 0)
        rows.append([name, f"{used:.3f}", f"{window:.3f}", str(refused)])
        figures += [
            Figure(f"tpm, estimates {name}: share of the quota used", used, 0.95, at_least=True),
            Figure(f"tpm, estimates {name}: most tokens in a window / allowed there", window, 1.0),
            Figure(f"tpm, estimates {name}: 429s", refused, 0, "calls"),
        ]
        found[name] = {"used": used, "window": window, "refused": refused}
    return figures, rows, found


def most_in_a_window(admitted: list[tuple[float, int]], rate: float, burst: float) -> float:
    """Over all windows, the tokens in it divided by `burst + rate * its length`."""
    most = 0.0
    for first, (begin, _) in enumerate(admitted):
        total = 0
        for at, count in admitted[first:]:
            total += count
            most = max(most, total / (burst + rate * (at - begin)))
    return most


def large_request() -> tuple[list[Figure], dict[str, Any]]:
    """How long a large request waits behind small ones, and before others that come later."""
    limits.forget("line")
    rate = 10_000.0
    define("line", RateLimit("line", tpm=rate * 60, token_burst=1000, tokens=1))
    line = bucket("line")
    for _ in range(64):
        line.estimates.learn(1, 1, 1)
    waited: dict[str, float] = {}

    async def one(name: str, amount: float) -> None:
        began = time.perf_counter()
        await line.acquire(TASK, amount)
        waited[name] = time.perf_counter() - began

    async def all_of() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(one(f"before {number}", 100))
            group.create_task(one("large", 1000))
            for number in range(100):
                group.create_task(one(f"after {number}", 100))

    asyncio.run(all_of())
    ideal = (100 * 100 + 1000 - 1000) / rate
    ratio = waited["large"] / ideal
    return [
        Figure("wait of a large request / its place in the line, 100 before and 100 after it", ratio, 1.05)
    ], {
        "waited": waited["large"],
        "ideal": ideal,
    }


# The limiter itself.


@dataclass
class Wait:
    """What it takes when many callers wait in one line.

    Attributes:
        ratio: The time until the last start, as a multiple of the ideal.
        spread: Seconds by which starts are late: the 99th percentile less the least.
        cpu: Seconds of CPU for a caller.
    """

    ratio: float
    spread: float
    cpu: float


def waits_in_line(waiters: int, rps: int, burst: int, take: Callable[[], Awaitable[Any]]) -> Wait:
    starts: list[float] = []

    async def one() -> None:
        await take()
        starts.append(time.perf_counter())

    async def all_of() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(waiters):
                group.create_task(one())

    began, cpu = time.perf_counter(), time.process_time()
    asyncio.run(all_of())
    cpu = time.process_time() - cpu
    late = sorted(
        start - began - max(0, number + 1 - burst) / rps for number, start in enumerate(sorted(starts))
    )
    ideal = (waiters - burst) / rps
    return Wait((max(starts) - began) / ideal, late[int(0.99 * len(late))] - late[0], cpu / waiters)


def in_our_line(waiters: int, rps: int, burst: int) -> Wait:
    limits.forget("many")
    define("many", RateLimit("many", rps=rps, burst=burst))
    line = bucket("many")
    run_blocking(line.acquire(THREAD))
    time.sleep(0.1)
    return waits_in_line(waiters, rps, burst, lambda: line.acquire(TASK))


def in_aiolimiters_line(waiters: int, rps: int, burst: int) -> Wait:
    return waits_in_line(waiters, rps, burst, AsyncLimiter(burst, burst / rps).acquire)


def limiter(waiters: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    rps, burst, turns = 2000, 20, 3
    gc.collect()
    ours, theirs = (
        [line(waiters, rps, burst) for _ in range(turns)] for line in (in_our_line, in_aiolimiters_line)
    )
    ratio = min(one.ratio for one in ours)
    limits.forget("free")
    define("free", RateLimit("free", rps=1e6, burst=1e5))
    free = bucket("free")
    rounds = []
    for _ in range(5):
        cpu = time.process_time()
        _, seconds = timed(lambda: [run_blocking(free.acquire(THREAD)) for _ in range(1000)])
        rounds.append((seconds / 1000 * 1e6, (time.process_time() - cpu) / 1000 * 1e6))
    wall, cpu_free = min(rounds)
    rows = [
        ["limiter", "wall us", "CPU us", "starts late by, p99 - least, ms", "wall / ideal"],
        ["uncontended, from a foreign thread", f"{wall:.0f}", f"{cpu_free:.0f}", "", ""],
    ]
    for name, found in (("mahsm", ours), ("aiolimiter", theirs)):
        cpu, spread, wide = (min(getattr(one, what) for one in found) for what in ("cpu", "spread", "ratio"))
        of = f"{name}, {waiters:,} waiters, rps={rps:,}"
        rows.append([of, "", f"{cpu * 1e6:.0f}", f"{spread * 1e3:.1f}", f"{wide:.4f}"])
    figures = [
        Figure(f"wall / ideal, {waiters:,} waiters, rps={rps:,}", ratio, 1.015),
        Figure(
            f"starts late by, p99 - least, {waiters:,} waiters",
            min(one.spread for one in ours) * 1e3,
            10,
            "ms",
        ),
        Figure("uncontended acquire from a foreign thread", wall, 200, "us"),
    ]
    return figures, rows, {"waiting": ratio, "uncontended_us": wall, "uncontended_cpu_us": cpu_free}


# Agents, whose every call is one of the provider's.


def look_up(word: str) -> str:
    """Look a word up."""
    return word.upper()


def agents() -> tuple[list[Figure], dict[str, Any]]:
    """Ten agents of two calls each, under `invoke` and `ainvoke`, at 10 requests per second."""
    model = FakeChatModel(lambda call: "done" if call.role == "tool" else ToolCall("look_up", {"word": "a"}))
    agent = create_agent(model, tools=[look_up])
    ideal, walls = (2 * 10 - 1) / 10, dict[str, float]()
    for mode in ("sync", "async"):
        limits.forget("agents")
        limit = RateLimit("agents", rps=10, burst=1)
        edge = vmap(
            agent,
            batch_key="xs",
            out_key="ys",
            item_to_state=lambda x: {"messages": [("user", str(x))]},
            rate_limit=limit,
        )
        _, walls[mode] = timed(lambda edge=edge, mode=mode: run(edge, 10, mode))
    figures = [
        Figure(
            "10 agents of two calls, rps=10, burst=1: least wall / ideal",
            min(walls.values()) / ideal,
            1,
            at_least=True,
        ),
        Figure(
            "10 agents of two calls, rps=10, burst=1: most wall / ideal", max(walls.values()) / ideal, 1.05
        ),
    ]
    return figures, walls


# Failures, budgets, early stops.


def flaky(items: int) -> tuple[list[Figure], dict[str, Any]]:
    limits.forget("judge")
    edge = ask_edge(
        rate_limit=RateLimit("judge", rps=5000), retry=Retry(attempts=20, base=0.01), on_error="collect"
    )
    with Provider(failures=0.2, refusals=0.1, answer=ANSWER) as provider, dspy.context(lm=provider.lm()):
        ys = run(edge, items)
        seen = provider.report()
    failed = sum(map(is_item_error, ys))
    figures = [
        Figure(f"20 % 5xx and 10 % 429, {items:,} items: failed", failed, 0, "items"),
        Figure("20 % 5xx and 10 % 429: attempts per item", seen.calls / items, 1.6, ""),
    ]
    return figures, {"statuses": seen.statuses, "failed": failed}


def storm(items: int) -> tuple[list[Figure], dict[str, Any]]:
    limits.forget("judge")
    limit = RateLimit("judge", rps=5000, retry=Retry(attempts=5, base=0.01, cap=0.1))
    edge = ask_edge(rate_limit=limit, on_error="collect")
    with Provider(failures=1.0, answer=ANSWER) as provider, dspy.context(lm=provider.lm()):
        run(edge, items)  # uses what retries have been saved
        before = provider.report().calls
        ys = run(edge, items)
        after = provider.report().calls
    figures = [
        Figure("provider down, retry budget spent: attempts per item", (after - before) / items, 1.2, ""),
        Figure(
            "provider down: items without an ItemError", sum(not is_item_error(y) for y in ys), 0, "items"
        ),
    ]
    return figures, {"first": before, "then": after - before}


def overspend(items: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    rows = [["budget", "finished", "overspend / what was in flight"]]
    worst, lost = 0.0, 0
    with (
        Provider(answer=ANSWER, latency=0.02) as provider,
        dspy.context(lm=provider.lm("openai/gpt-4o-mini")),
    ):
        run(ask_edge(), 1)
        one = provider.report()
        per_call = one.tokens / one.calls
        for budget in (
            Budget(calls=100),
            Budget(tokens=100 * per_call),
            Budget(usd=0.002),
            Budget(seconds=0.5),
        ):
            before = provider.report()
            ys = run(ask_edge(budget=budget, max_concurrency=32, on_error="collect"), items)
            after = provider.report()
            finished = sum(not is_item_error(y) for y in ys)
            lost += after.statuses[200] - before.statuses[200] - finished
            spent = after.tokens - before.tokens
            over = 0.0
            if budget.tokens is not None:
                over = (spent - budget.tokens) / (32 * per_call)
            if budget.calls is not None:
                over = (after.calls - before.calls - budget.calls) / 32
            worst = max(worst, over)
            rows.append([str(budget), str(finished), f"{over:.2f}"])
    figures = [
        Figure("budget: overspend / what was in flight", worst, 1.0),
        Figure("budget: answers that were given and not kept", lost, 0, "answers"),
    ]
    return figures, rows, {"overspend": worst, "lost": lost}


def adaptive(items: int, rounds: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    rows = [["concurrency", "items per second", "429s"]]
    retry = Retry(attempts=100, base=0.05, cap=0.4)
    stubborn = replace(retry, share=None)  # or the fixed ones above 40 would give up
    rates: dict[str, float] = {}
    refused: dict[str, int] = {}
    for _ in range(rounds):  # the best one counts, since the machine is noisy
        edges = {str(most): ask_edge(max_concurrency=most, retry=stubborn) for most in (30, 40, 60)}
        edges["adaptive"] = ask_edge(max_concurrency=200, retry=retry, adaptive=True)
        for name, edge in edges.items():
            limits.forget("openai")
            with Provider(at_once=40, latency=0.4, retry_after=False, answer=ANSWER) as provider:
                with dspy.context(lm=provider.lm()):
                    _, seconds = timed(lambda edge=edge: run(edge, items))
                refused[name] = provider.report().statuses.get(429, 0)
            rates[name] = max(rates.get(name, 0.0), items / seconds)
    rows += [[name, f"{rate:.1f}", str(refused[name])] for name, rate in rates.items()]
    best = max(rate for name, rate in rates.items() if name != "adaptive")
    return (
        [
            Figure(
                "adaptive / best fixed concurrency, 40 at once taken",
                rates["adaptive"] / best,
                0.85,
                at_least=True,
            )
        ],
        rows,
        rates,
    )


def early_stop() -> tuple[list[Figure], dict[str, Any]]:
    at_once = 8
    with Provider(answer=ANSWER, latency=0.02) as provider, dspy.context(lm=provider.lm()):
        run(ask_edge(max_concurrency=at_once, stop_when=majority_vote), 101)
        calls = provider.report().calls
    return [Figure(f"majority of 101 voters that agree, {at_once} at once", calls, 51 + at_once, "calls")], {
        "calls": calls
    }


def main(*, quick: bool) -> int:
    parts: dict[str, report.Part] = {
        "pace": lambda: pace(60 if quick else 1000),
        "tokens": lambda: tokens(0.5 if quick else 15),
        "large_request": large_request,
        "limiter": lambda: limiter(400 if quick else 4000),
        "agents": agents,
        "flaky": lambda: flaky(50 if quick else 1000),
        "storm": lambda: storm(120 if quick else 1000),
        "overspend": lambda: overspend(150 if quick else 1000),
        "adaptive": lambda: adaptive(*(40, 1) if quick else (2000, 2)),
        "early_stop": early_stop,
    }
    return report.run("limits", parts, quick=quick)
