"""Branches that fail, wait for somebody, or are cut short."""

import asyncio
import threading
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from mahsm import Branch, RateLimit, Retry, budget, is_item_error, limits, parallel
from mahsm._waiting import tasks
from mahsm.errors import BudgetExceeded, EdgeError, LimitError
from tests.helpers import MODES, WAVES, fails, graph_of, run, thread, writes
from tests.helpers import BranchState as State


@pytest.mark.parametrize("mode", MODES)
def test_an_error_cancels_the_others_and_comes_out_as_it_is(mode: str) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    async def waits(_: Any) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def breaks(_: Any) -> None:
        await asyncio.to_thread(begun.wait, 60)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken") as caught:
        run(parallel({"waits": waits, "breaks": breaks}, name="edge"), {}, mode)
    assert "mahsm: edge, branch 'breaks', attempt 1" in caught.value.__notes__
    assert cancelled.wait(60)


@pytest.mark.parametrize("options", [*WAVES, {"scheduler": "sequential"}])
@pytest.mark.parametrize("mode", MODES)
def test_isolated_failures_keep_the_others_and_skip_dependants(mode: str, options: Any) -> None:
    branches = {
        "fine": lambda state: {"a": 1},
        "broken": fails,
        "needs_broken": Branch(lambda state: {"b": 1}, after="broken"),
        "needs_that": Branch(lambda state: {"c": 1}, after="needs_broken"),
        "needs_fine": Branch(lambda state: {"d": state["a"]}, after="fine"),
    }
    update = run(parallel(branches, on_error="isolate", errors_key="errors", **options), {}, mode)
    errors = update.pop("errors")
    assert update == {"a": 1, "d": 1}
    assert [(error["key"], error["type"].split(".")[-1], error["attempts"]) for error in errors] == [
        ("'broken'", "ValueError", 1),
        ("'needs_broken'", "BranchSkipped", 0),
        ("'needs_that'", "BranchSkipped", 0),
    ]
    assert "depends on 'broken', which failed" in errors[1]["message"]
    assert all(map(is_item_error, errors))


@pytest.mark.parametrize("mode", MODES)
def test_errors_beside_reduced_keys(mode: str) -> None:
    edge = parallel(
        {"x": lambda state: {"log": ["x"]}, "y": lambda state: {"log": ["y"]}, "broken": fails},
        on_error="isolate",
        errors_key="errors",
    )
    state = run(graph_of(edge, state=State), {"log": []}, mode)
    assert (state["log"], len(state["errors"])) == (["x", "y"], 1)


@pytest.mark.parametrize("mode", MODES)
def test_each_branch_is_tried_as_it_says(mode: str) -> None:
    limits.forget("parallel-test")
    tries: list[int] = []

    def flaky(_: Any) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("down")
        return {"a": len(tries)}

    async def slow(_: Any) -> None:
        await asyncio.sleep(3600)

    limit = RateLimit("parallel-test", rps=1000)
    edge = parallel(
        {"flaky": Branch(flaky, retry=Retry(base=0), rate_limit=limit), "slow": Branch(slow, timeout=0.01)},
        on_error="isolate",
        errors_key="errors",
    )
    update = run(edge, {}, mode)
    assert update["a"] == 3
    assert update["errors"][0]["message"] == "took longer than 0.01 s"
    assert limits.stats()["parallel-test"].admitted == 3


@pytest.mark.parametrize("mode", MODES)
def test_timeout_of_all(mode: str) -> None:
    async def slow(_: Any) -> None:
        await asyncio.sleep(3600)

    branches = {
        "quick": lambda state: {"a": 1},
        "slow": slow,
        "never": Branch(lambda state: {"b": 1}, after="slow"),
    }
    edge = parallel(
        branches, scheduler="wave", timeout=0.1, on_error="isolate", errors_key="errors", name="edge"
    )
    update = run(edge, {}, mode)
    assert update["a"] == 1
    assert next(error["type"].split(".")[-1] for error in update["errors"]) == "TimeoutError"
    assert len(update["errors"]) == 2
    with pytest.raises(TimeoutError, match=r"the deadline of 0.1 s is over"):
        run(parallel(branches, scheduler="wave", timeout=0.1), {}, mode)


@pytest.mark.parametrize("mode", MODES)
def test_no_branch_begins_after_the_timeout_of_all_before_the_run_has_heard_of_it(mode: str) -> None:
    begun: list[str] = []
    release = threading.Event()

    async def waits(_: Any) -> None:
        begun.append("waits")
        await asyncio.Event().wait()

    branches = {
        "waits": waits,
        "next": lambda state: begun.append("next"),
        "last": lambda state: begun.append("last"),
    }
    edge = parallel(
        branches, scheduler="sequential", timeout=0.5, on_error="isolate", errors_key="errors", name="edge"
    )
    # Where time is kept: it is busy, and comes too late.
    tasks.limits_loop().call_soon_threadsafe(release.wait)
    try:
        update = run(edge, {}, mode)
    finally:
        release.set()
    assert begun == ["waits"]
    assert [error["message"].partition(":")[0] for error in update["errors"]] == ["waits", "edge", "edge"]


@pytest.mark.parametrize("mode", MODES)
def test_a_budget_stops_branches_that_have_not_begun(mode: str) -> None:
    edge = parallel([writes(key, 1) for key in "abcd"], scheduler="sequential")
    with budget(calls=2), pytest.raises(BudgetExceeded):
        run(edge, {}, mode)
    isolated = parallel(
        [writes(key, 1) for key in "abcd"], scheduler="sequential", on_error="isolate", errors_key="errors"
    )
    with budget(calls=2):
        update = run(isolated, {}, mode)
    assert (update["a"], update["b"], len(update["errors"])) == (1, 1, 2)


@pytest.mark.parametrize("mode", MODES)
def test_a_target_that_cancels_itself_has_failed(mode: str) -> None:
    async def gives_up(_: Any) -> None:
        raise asyncio.CancelledError

    update = run(
        parallel({"gives_up": gives_up, "a": writes("a", 1)}, on_error="isolate", errors_key="errors"),
        {},
        mode,
    )
    assert (update["a"], update["errors"][0]["type"].split(".")[-1]) == (1, "CancelledError")


async def test_a_cancelled_run_ends_branches_that_wait() -> None:
    begun = asyncio.Event()

    async def waits(_: Any) -> None:
        begun.set()
        await asyncio.sleep(3600)

    edge = parallel({"first": waits, "second": Branch(waits, after="first")}, scheduler="wave")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(edge.ainvoke({}))
        await begun.wait()
        task.cancel()
    assert task.cancelled()


# Interrupts and resuming.


@pytest.mark.parametrize("options", [{"scheduler": "parallel"}, *WAVES])
@pytest.mark.parametrize("mode", MODES)
def test_interrupts_in_two_branches_resume_each(mode: str, options: Any) -> None:
    calls: list[str] = []

    def asks(key: str) -> Any:
        return lambda state: {key: interrupt(f"{key}?")}

    def counted(_: Any) -> Any:
        calls.append("c")
        return {"c": 1}

    branches: Any = {"a": asks("a"), "b": asks("b"), "c": counted}
    if options["scheduler"] == "wave":
        branches["d"] = Branch(lambda state: {"d": state["a"] + state["b"]}, after=["a", "b"])
    graph = graph_of(parallel(branches, **options), state=State, checkpointer=InMemorySaver())
    asked = run(graph, {"text": "x"}, mode, thread())["__interrupt__"]
    assert sorted(one.value for one in asked) == ["a?", "b?"]
    state = run(graph, Command(resume={one.id: one.value.upper() for one in asked}), mode, thread())
    assert (state["a"], state["b"], state["c"]) == ("A?", "B?", 1)
    if "d" in branches:
        assert state["d"] == "A?B?"
    assert calls == ["c"], "a finished branch does not run again"


@pytest.mark.parametrize("options", [*WAVES, {"scheduler": "sequential"}])
@pytest.mark.parametrize("mode", MODES)
def test_finished_branches_do_not_run_again(mode: str, options: Any) -> None:
    calls: list[str] = []
    broken = True

    def branch(key: str, *after: str) -> Branch:
        def target(state: Any) -> Any:
            calls.append(key)
            if key == "c" and broken:
                raise ValueError("power cut")
            return {key: key + "".join(state[name] for name in after)}

        return Branch(target, name=key, after=after)

    edge = parallel([branch("a"), branch("b", "a"), branch("c", "b"), branch("d", "a", "c")], **options)
    graph = graph_of(edge, state=State, checkpointer=InMemorySaver())
    with pytest.raises(ValueError, match="power cut"):
        run(graph, {"text": "x"}, mode, thread())
    broken = False
    state = run(graph, None, mode, thread())
    assert state["d"] == "dacba"
    assert calls == ["a", "b", "c", "c", "d"]


@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_needs_a_checkpointer(mode: str) -> None:
    with pytest.raises(
        EdgeError, match=r"called interrupt\(\), but the edge runs alone, without a checkpointer"
    ):
        run(parallel([lambda state: interrupt("?")]), {}, mode)


def test_branches_are_tasks_of_langgraph() -> None:
    graph = graph_of(parallel([writes("a", 1), writes("b", 2)], name="edge"), state=State)
    events = [event for _, event in graph.stream({"text": "x"}, stream_mode="updates", subgraphs=True)]
    assert {next(iter(event)) for event in events} == {"a", "b", "edge"}


def test_the_subgraph_runs_only_in_its_edge() -> None:
    with pytest.raises(EdgeError, match="this subgraph runs only inside its edge"):
        parallel([writes("a", 1)]).graph.invoke({})


class Forgets(InMemorySaver):
    """A checkpointer that was killed before it had written what one branch gave."""

    forgotten: str | None = None

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        given = [outcome["branch"] for channel, value in writes if channel == "done" for outcome in value]
        if self.forgotten not in given:
            super().put_writes(config, writes, task_id, task_path)

    async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        self.put_writes(config, writes, task_id, task_path)


@pytest.mark.parametrize("options", [*WAVES, {"scheduler": "sequential"}])
@pytest.mark.parametrize("mode", MODES)
def test_a_branch_whose_outcome_was_lost_runs_before_those_that_see_it(mode: str, options: Any) -> None:
    """The one after it was saved, and the next one sees both: it has to wait, and not only for its
    neighbour."""
    calls: list[str] = []
    down = [True]

    def step(name: str) -> Any:
        async def target(state: dict[str, Any]) -> dict[str, Any]:
            calls.append(name)
            await asyncio.sleep(0)
            if name == "c" and down:
                down.clear()
                raise ConnectionError("down")
            return {name: "".join(sorted(key for key in "abc" if key in state))}

        return target

    branches = [
        Branch(step("a"), name="a"),
        Branch(step("b"), name="b", after="a"),
        Branch(step("c"), name="c", after="b"),
    ]
    saver = Forgets()
    saver.forgotten = "a"
    graph = parallel(branches, name="edge", **options).compile(checkpointer=saver)
    with pytest.raises(ConnectionError, match="down"):
        run(graph, {"text": "x"}, mode, thread())
    saver.forgotten = None
    assert run(graph, None, mode, thread())["c"] == "ab"
    assert calls == ["a", "b", "c", "a", "c"]


# Branches are tried as items are.


@pytest.mark.parametrize("mode", MODES)
def test_retries_inside_are_off_if_the_rate_limit_says_how_to_retry(mode: str) -> None:
    limits.forget("branch-retry")
    calls: list[int] = []

    def refuse(state: Any) -> None:
        calls.append(1)
        raise ConnectionError("refused")

    limit = RateLimit("branch-retry", rps=1e6, retry=Retry(attempts=2, base=0))
    target = RunnableLambda(refuse).with_retry(stop_after_attempt=3)
    edge = parallel([Branch(target, name="a", rate_limit=limit)])
    with pytest.raises(ConnectionError, match="refused"):
        run(edge, {}, mode)
    assert len(calls) == 2


def test_a_limit_on_tokens_that_nobody_counts_is_refused() -> None:
    limit = RateLimit(rps=5, tpm=1000)
    with pytest.raises(
        LimitError, match=r"^parallel, branch 'fails': tpm=1000, but fails is a plain function"
    ):
        parallel([Branch(fails, rate_limit=limit)])
    with pytest.raises(LimitError, match=r"^parallel, branch 'a': tpm=1000, .* Pass RateLimit\(..., tokens="):
        parallel({"a": Branch(fails, rate_limit=limit)})
    assert parallel([Branch(fails, rate_limit=RateLimit(tpm=1000, tokens=10))]).name == "parallel_fails"
