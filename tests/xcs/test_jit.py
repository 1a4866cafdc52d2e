"""What a jitted function does beside giving the same: what runs beside what, and what is left."""

import asyncio
import copy
import functools
import inspect
import math
import pickle
import sys
import textwrap
import threading
import time
import traceback
import types
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import mahsm
from mahsm import Budget, RateLimit, Retry, vmap, xcs
from mahsm._waiting import threads
from mahsm.errors import BudgetExceeded, EdgeError
from tests.xcs import programs
from tests.xcs.programs import ask


class Meeting:
    """A step that ends only if so many calls of it run at the same time."""

    def __init__(self, guests: int) -> None:
        self._barrier = threading.Barrier(guests)

    def __call__(self, value: Any) -> Any:
        self._barrier.wait(30)
        return value


class Gauge:
    """A step that knows how many calls of it ran at the same time, at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0

    def __call__(self, value: Any) -> Any:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(0.002)
        with self._lock:
            self._now -= 1
        return value


# What runs beside what.


def test_steps_run_beside_each_other():
    meet = xcs.step(Meeting(8).__call__)

    @xcs.jit
    def eight(q):
        return [meet(f"{q}{i}") for i in range(8)]

    assert eight("q") == [f"q{i}" for i in range(8)]


def test_a_step_begins_when_its_arguments_are_there():
    begun, go = threading.Event(), threading.Event()

    @xcs.step
    def slow(q):
        assert go.wait(30)
        return q

    @xcs.step
    def second(q):
        begun.set()
        return f"second {q}"

    @xcs.step
    def waits_for_second(q):
        assert begun.wait(30)
        go.set()
        return q

    @xcs.jit
    def program(q):
        a = slow(q)
        b = second(ask(q))
        c = waits_for_second("c")
        return a, b, c

    assert program("q")[2] == "c"


async def test_async_steps_run_beside_each_other():
    here = 0
    all_here = asyncio.Event()

    @xcs.step
    async def meet(q):
        nonlocal here
        here += 1
        if here == 4:
            all_here.set()
        await asyncio.wait_for(all_here.wait(), 30)
        return q

    @xcs.jit
    async def four(q):
        return [await meet(f"{q}{i}") for i in range(4)]

    assert await four("q") == ["q0", "q1", "q2", "q3"]


async def test_acall_awaits_any_jitted_function():
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    @xcs.jit
    def blocking(q):
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(30)
        return ask(q)

    @xcs.jit
    async def awaited(q):
        gate.set()
        return ask(q)

    @xcs.jit
    async def both(q):
        return [await one.acall(q) for one in (blocking, awaited)]

    loop.call_soon(gate.set)
    assert await blocking.acall("a") == ask("a")
    gate.clear()
    assert await both("c") == [ask("c"), ask("c")]
    assert [step.name for step in both.last.steps] == ["blocking", "awaited"]


async def test_the_event_loop_goes_on_while_a_function_waits():
    turns = asyncio.Event()

    @xcs.step
    async def slow(q):
        await turns.wait()
        return q

    @xcs.jit
    async def program(q):
        return "yes" if str(await slow(q)) == q else "no"

    call = asyncio.ensure_future(program("q"))
    await asyncio.sleep(0)
    turns.set()
    assert await call == "yes"


@pytest.mark.parametrize("most", [1, 3])
def test_max_concurrency(most):
    gauge = Gauge()
    work = xcs.step(gauge.__call__)

    @xcs.jit(max_concurrency=most)
    def program():
        return [work(i) for i in range(20)]

    assert program() == list(range(20))
    assert gauge.most <= most


def test_jitted_functions_inside_of_jitted_functions_with_few_slots():
    gauge = Gauge()
    work = xcs.step(gauge.__call__)

    @xcs.jit
    def inner(q):
        return [work(f"{q}{i}") for i in range(4)]

    @xcs.jit(max_concurrency=4)
    def outer(q):
        return [inner(f"{q}{i}") for i in range(32)]

    assert len(outer("q")) == 32
    assert gauge.most <= 4


def test_an_ordered_step_runs_after_all_earlier_ones():
    log: list[str] = []

    @xcs.step
    def slow(q):
        time.sleep(0.01)
        log.append(q)
        return q

    @xcs.step(ordered=True)
    def effect(q):
        log.append(q)

    @xcs.jit
    def program():
        slow("a")
        slow("b")
        effect("effect")
        slow("c")

    program()
    assert sorted(log[:2]) == ["a", "b"]
    assert log[2:] == ["effect", "c"]


# Errors.


async def test_what_runs_is_cancelled_after_an_error():
    cancelled = asyncio.Event()

    @xcs.step
    async def fails(q):
        await asyncio.sleep(0)
        raise ValueError(q)

    @xcs.step
    async def hangs(q):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    @xcs.jit
    async def program(q):
        await fails(q)
        await hangs(q)

    with pytest.raises(ValueError, match=r"^q$"):
        await program("q")
    assert cancelled.is_set()
    assert len(asyncio.all_tasks()) == 1


async def test_a_cancelled_call_cancels_its_steps():
    began, ended = asyncio.Event(), asyncio.Event()

    @xcs.step
    async def hangs(q):
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    @xcs.jit
    async def program(q):
        return f"{await hangs(q)}"

    call = asyncio.ensure_future(program("q"))
    await began.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()
    assert len(asyncio.all_tasks()) == 1


def test_a_step_that_waits_for_one_that_failed_is_not_called():
    called: list[str] = []

    @xcs.step
    def after(q):
        called.append(q)

    @xcs.jit
    def program(q):
        after(ask(f"boom {q}"))

    with pytest.raises(ValueError, match="boom: boom q"):
        program("q")
    assert called == []


def test_a_traceback_shows_the_lines_of_the_function():
    @xcs.jit
    def program(q):
        a = "fine"
        if ask(f"boom {q}"):  # this line
            a = "never"
        return a

    with pytest.raises(ValueError, match="boom") as caught:
        program("q")
    shown = "".join(traceback.format_exception(caught.value))
    assert 'if ask(f"boom {q}"):  # this line' in shown
    assert f'File "{__file__}"' in shown
    assert "in program" in shown


def adds(a):
    return a + 1  # this line


def formats(a):
    return f"{a:d}"  # this line


def reads(a):
    return a.missing  # this line


def looks_up(a):
    return a["missing"]  # this line


def measures(a):
    return math.sqrt(a)  # this line


@pytest.mark.parametrize("operation", [adds, formats, reads, looks_up, measures])
def test_a_traceback_shows_the_line_of_an_operation_on_a_value_that_comes_later(operation):
    go = threading.Event()

    @xcs.step
    def late(q):
        assert go.wait(30)
        return q

    @xcs.jit
    def program(q):
        a = late(q)
        made = operation(a)
        go.set()
        return made, "the end"

    with pytest.raises((TypeError, ValueError, AttributeError)) as caught:
        program("q")
    shown = traceback.format_exception(caught.value)
    assert sum("# this line" in part for part in shown) == 1
    found = next(part for part in traceback.extract_tb(caught.value.__traceback__) if "# this" in part.line)
    assert (found.filename, found.name) == (__file__, operation.__name__)
    line = inspect.getsource(operation).splitlines()[1]
    assert line[found.colno : found.end_colno] == line.strip().removeprefix("return ").partition("  #")[0]


def test_line_events_are_those_of_the_plain_function():
    """Debuggers and coverage see the same lines."""
    for name in ("try_in_loop", "branch", "with_block", "match_value", "recursion", "joined"):
        plain = programs.programs[name]
        assert lines_of(xcs.jit(plain), plain) == lines_of(plain, plain), name


def lines_of(function: Callable[[str], Any], plain: Any) -> set[int]:
    found: set[int] = set()

    def trace(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename != plain.__code__.co_filename or frame.f_code.co_name in {"ask", "note"}:
            return None
        if event == "line":
            found.add(frame.f_lineno)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function("q r")
    finally:
        sys.settrace(before)
    return found


# Functions without a source.


def of_text(text: str) -> types.FunctionType:
    scope: dict[str, Any] = {"ask": ask}
    exec(compile(textwrap.dedent(text), "<nowhere>", "exec"), scope)
    return scope["program"]


def test_a_function_without_a_source_runs_as_it_is():
    plain = of_text("""
        def program(q):
            return " ".join([ask(f"{i} {q}").strip() for i in range(2)])
    """)
    jitted = xcs.jit(plain)
    with pytest.warns(RuntimeWarning, match=r"xcs.jit: the source of program is missing or has changed"):
        assert jitted("q") == plain("q")
    assert jitted("r") == plain("r"), "without a second warning"
    with pytest.raises(ValueError, match="program runs as it is; it has no rewritten source"):
        print(jitted.source)


def test_a_function_that_is_not_what_its_file_says_runs_as_it_is(tmp_path):
    file = tmp_path / "changed.py"
    file.write_text("def program2(q):\n    return ask(q) + 'old'\n")
    scope: dict[str, Any] = {"ask": ask}
    exec(compile(file.read_text(), str(file), "exec"), scope)
    file.write_text("def program2(q):\n    return ask(q) + 'new'\n")
    with pytest.warns(RuntimeWarning, match="program2"):
        assert xcs.jit(scope["program2"])("q").endswith("old")


def test_rewriting_can_be_left_out():
    meet = xcs.step(Meeting(3).__call__)

    @xcs.jit(rewrite=False)
    def program(q):
        found = [meet(i) for i in range(3)]
        return found, found[0] + 1, f"{found[1]}"

    assert program("q") == ([0, 1, 2], 1, "1")


def test_nothing_is_put_into_globals():
    before = set(globals())
    xcs.jit(of_this_module)("q")
    assert set(globals()) == before


def of_this_module(q):
    return ask(q)


def test_the_source_that_runs():
    assert xcs.jit(of_this_module).source == "def of_this_module(q):\n    return __xcs_call__(ask, q)"
    assert xcs.jit(lambda q, depth=3, *, k=[]: (depth, k)).source == (
        "lambda q, depth=3, *, k=[]: (depth, k)"
    )


# How it is made.


class Service:
    def __init__(self, name: str) -> None:
        self.name = name

    @xcs.jit
    def answer(self, q):
        return [ask(f"{self.name} {q}"), ask(q)]

    @staticmethod
    @xcs.jit
    def static(q):
        return ask(q)


def test_methods():
    assert Service("s").answer("q") == [ask("s q"), ask("q")]
    assert Service.static("q") == ask("q")


class Pair:
    def __call__(self, q):
        return [ask(q), ask(q + "2")]


def test_partials_callable_objects_and_bound_methods():
    meet = xcs.step(Meeting(2).__call__)

    def two(q, r):
        return [meet(q), meet(r)]

    assert xcs.jit(functools.partial(two, "q"))("r") == ["q", "r"]
    assert xcs.jit(Pair())("q") == [ask("q"), ask("q2")]
    assert xcs.jit(Pair().__call__)("q") == [ask("q"), ask("q2")]
    assert "__xcs_call__" in xcs.jit(Pair()).source
    assert xcs.jit(len)("abc") == 3
    assert xcs.jit(ask)("q") == ask("q")


def test_special_methods_of_pending_values():
    jitted = xcs.jit(lambda q: (ask(q).__len__(), ask(q).__add__("!"), ask(q).__contains__("yes")))
    assert jitted("q") == jitted.function("q")


def test_a_jitted_function_is_pickled_by_its_name():
    assert pickle.loads(pickle.dumps(importable)) is importable
    assert copy.deepcopy(importable) is importable
    assert pickle.loads(pickle.dumps(composed)) is composed
    of_a_partial = xcs.jit(functools.partial(of_this_module, "q"))
    assert copy.deepcopy([of_a_partial]) == [of_a_partial]


@xcs.jit
def importable(q):
    return ask(q)


@xcs.jit
@mahsm.retry
def composed(q):
    return ask(q)


def test_a_jitted_function_looks_like_the_function():
    jitted = xcs.jit(of_this_module)
    assert (jitted.__name__, inspect.signature(jitted)) == (
        "of_this_module",
        inspect.signature(of_this_module),
    )
    assert repr(jitted).startswith("jit(")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: xcs.jit(3), TypeError, "xcs.jit got 3; expected a function"),
        (lambda: xcs.jit(Service), TypeError, "expected a function"),
        (lambda: xcs.jit(staticmethod(len)), TypeError, "write @xcs.jit below @staticmethod"),
        (lambda: xcs.jit(yields), TypeError, "generator function"),
        (lambda: xcs.step(yields), TypeError, "generator function"),
        (lambda: xcs.step(3), TypeError, "xcs.step got 3"),
        (lambda: xcs.jit(of_this_module, max_concurrency=0), EdgeError, "max_concurrency=0"),
        (lambda: xcs.jit(of_this_module, budget=3), EdgeError, "budget=3"),
        (lambda: xcs.jit(of_this_module, retry=3), EdgeError, r"^xcs.jit: retry=3; expected Retry\(attempts"),
        (lambda: xcs.jit(of_this_module, timeout=-1), EdgeError, "timeout=-1"),
        (lambda: xcs.jit(of_this_module, backend="numba"), EdgeError, "backend='numba'"),
    ],
)
def test_what_cannot_be_jitted(make, error, message):
    with pytest.raises(error, match=message):
        make()


def yields():
    yield 1


def test_outside_of_jitted_functions_a_step_is_the_function():
    assert ask("q") == ask.function("q")
    assert ask.__name__ == "ask"


# Other code.


def test_threads_of_the_users_own():
    @xcs.jit
    def program(q):
        answers = [ask(f"{i}{q}") for i in range(2)]
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda i: answers[i].upper() + ask("own"), range(2)))

    assert program("q") == program.function("q")


def test_a_function_that_comes_out_goes_on():
    @xcs.jit
    def program(q):
        a = ask(q)
        log = [a]

        def later(x):
            log.append(f"{a}{x}")
            return " ".join([*log, ask(x)])

        return later

    assert program("q")("x") == program.function("q")("x")


def test_a_generator_that_comes_out_goes_on():
    @xcs.jit
    def program(q):
        answers = [ask(f"{i}{q}") for i in range(3)]
        return (f"{a}!" for a in answers)

    assert list(program("q")) == list(program.function("q"))


def test_arguments_that_are_changed():
    @xcs.jit
    def program(log, found):
        log.append(ask("a"))
        found["b"] = [ask("b")]
        found.setdefault("c", ask("c"))

    log: list[Any] = []
    found: dict[str, Any] = {}
    program(log, found)
    assert [type(one) for one in [*log, *found["b"], found["c"]]] == [str] * 3


def test_arguments_are_as_they_were_after_an_error():
    @xcs.jit
    def program(log):
        log.append(1)
        ask("boom")
        log.append(2)

    log: list[Any] = []
    with pytest.raises(ValueError, match="boom"):
        program(log)
    assert log == [1]


def test_idle_threads_of_steps_end(monkeypatch):
    monkeypatch.setattr(threads, "IDLE", 0.01)
    before = set(threading.enumerate())

    @xcs.jit
    def program(q):
        return [ask(f"{q}{i}") for i in range(30)]

    for _ in range(20):
        program("q")
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


def test_many_calls_at_the_same_time():
    jitted = xcs.jit(programs.programs["refine"])
    plain = programs.programs["refine"]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(jitted, map(str, range(40))))
    assert found == [plain(str(i)) for i in range(40)]


# As edges.


def test_in_the_items_of_an_edge():
    gauge = Gauge()
    work = xcs.step(gauge.__call__)

    @xcs.jit
    def program(q):
        return [work(f"{q}{i}") for i in range(5)]

    edge = vmap(lambda state: program(state["item"]), batch_key="qs", out_key="found", max_concurrency=2)
    assert edge.invoke({"qs": ["a", "b", "c"]})["found"] == [[f"{q}{i}" for i in range(5)] for q in "abc"]
    assert gauge.most <= 2


def test_retries_and_limits():
    calls: list[str] = []

    @xcs.step
    def flaky(q):
        calls.append(q)
        if calls.count(q) == 1:
            raise ConnectionError(q)
        return q

    mahsm.limits.forget("xcs-jit")
    jitted = xcs.jit(
        lambda: [flaky("a"), flaky("b")],
        retry=Retry(attempts=2, base=0.001),
        rate_limit=RateLimit("xcs-jit", rps=1000, burst=10),
    )
    assert jitted() == ["a", "b"]
    assert sorted(calls) == ["a", "a", "b", "b"]
    assert mahsm.limits.stats()["xcs-jit"].admitted == 4


def test_a_budget():
    jitted = xcs.jit(lambda: [ask(f"{i}") for i in range(5)], budget=Budget(calls=2), max_concurrency=1)
    with pytest.raises(BudgetExceeded, match="2 of 2 calls are made"):
        jitted()


def test_a_timeout_of_a_step():
    release = threading.Event()

    @xcs.step
    def hangs():
        release.wait(30)

    @xcs.step
    async def hangs_async():
        await asyncio.Event().wait()

    @xcs.jit(timeout=0.05)
    async def program():
        await hangs_async()

    try:
        with pytest.raises(TimeoutError, match=r"^hangs: took longer than 0\.05 s$"):
            xcs.jit(lambda: hangs(), timeout=0.05)()
    finally:
        release.set()
    with pytest.raises(TimeoutError, match=r"^hangs_async: took longer than 0\.05 s$"):
        asyncio.run(program())


# Reports.


def test_a_report():
    @xcs.step
    def slow(q):
        time.sleep(0.02)
        return q

    @xcs.jit
    def program(q):
        a = slow(f"{q} 1")
        b = slow(f"{a} 2")
        if "2" in b:
            slow("3")
        return b

    assert program.last is None
    program("q")
    report = program.last
    assert report is not None
    assert [step.name for step in report.steps] == ["slow"] * 3
    assert [list(step.after) for step in report.steps] == [[], [0], []]
    assert [list(wait.steps) for wait in report.waits] == [[1]]
    assert all(step.seconds >= 0.02 for step in report.steps)
    assert report.seconds >= 0.06
    assert "program: 3 steps in" in repr(report)
    assert "1 slow" in repr(report)
    assert f"test_jit.py:{inspect.getsourcelines(program.function)[1] + 4}; mark what uses the value" in repr(
        report
    )
    assert "s0 --> s1" in report.mermaid()
    assert set(report._repr_mimebundle_()) == {"text/plain", "text/vnd.mermaid"}


def test_an_error_in_a_report():
    jitted = xcs.jit(of_this_module)
    with pytest.raises(ValueError, match="boom"):
        jitted("boom")
    assert jitted.last is not None
    assert jitted.last.steps[0].error == "ValueError"
    assert "ValueError" in repr(jitted.last)


class Shelf:
    @xcs.step
    def fetch(self, title):
        return title.upper()

    @xcs.jit
    def both(self, title):
        return self.fetch(title), self.fetch(title)


def test_a_report_names_steps_that_are_methods():
    assert Shelf().both("a") == ("A", "A")
    assert [step.name for step in Shelf.both.last.steps] == ["fetch", "fetch"]


def test_a_report_of_one_step_counts_one_step():
    jitted = xcs.jit(lambda q: ask(q))
    jitted("a")
    assert ": 1 step in" in repr(jitted.last)


async def test_a_step_that_is_not_awaited_says_so():
    @xcs.step
    async def fetch(title):
        return title

    @xcs.jit
    async def program(title):
        return f"{fetch(title)}"

    assert await program("a") == "<call of fetch; await it>"


def test_a_wait_inside_of_a_library_is_reported_at_the_line_that_calls_it():
    @xcs.jit
    def program(qs):
        return Counter(ask(q) for q in qs)

    assert program(["a", "a"]) == Counter([ask("a"), ask("a")])
    assert program.last is not None
    line = inspect.getsourcelines(program.function)[1] + 2
    assert {(wait.file, wait.line) for wait in program.last.waits} == {(__file__, line)}
