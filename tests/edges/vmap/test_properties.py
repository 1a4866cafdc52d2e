"""What holds for every batch, bound, chunk size and set of failures: order kept, none lost, never too many at
once."""

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver

from mahsm import is_item_error, vmap
from tests.helpers import MODES, Gauge, graph_of, run, run_edge, thread


class Work:
    """Fails for some items, the first time or always, and counts who is inside."""

    def __init__(self, fails: set[int], *, once: bool = False) -> None:
        self.fails = set(fails)
        self.once = once
        self.gauge = Gauge()
        self.succeeded: list[int] = []

    def blocking(self, state: dict[str, Any]) -> int:
        with self.gauge.inside():
            return self._result(state["item"])

    async def waiting(self, state: dict[str, Any]) -> int:
        with self.gauge.inside():
            for _ in range(state["item"] % 3):
                await asyncio.sleep(0)
            return self._result(state["item"])

    def target(self, *, blocks: bool) -> Any:
        return self.blocking if blocks else self.waiting

    def _result(self, item: int) -> int:
        if item in self.fails:
            if self.once:
                self.fails.discard(item)
            raise ValueError(item)
        self.succeeded.append(item)
        return item * 2


batches = st.fixed_dictionaries(
    {
        "size": st.integers(0, 40) | st.sampled_from([129, 300]),
        "bound": st.integers(1, 6),
        "chunk_size": st.none() | st.integers(1, 20),
        "mode": st.sampled_from(MODES),
        "blocks": st.booleans(),
        "fails": st.sets(st.integers(0, 299), max_size=6),
    }
)


def edge_of(work: Work, batch: dict[str, Any], **options: Any) -> Any:
    target = work.target(blocks=batch["blocks"])
    bound, chunk_size = batch["bound"], batch["chunk_size"]
    return vmap(target, batch_key="xs", out_key="ys", max_concurrency=bound, chunk_size=chunk_size, **options)


@settings(max_examples=60, deadline=None)
@given(batch=batches, order=st.booleans())
def test_every_item_has_its_place(batch: dict[str, Any], order: bool) -> None:
    work, size = Work(batch["fails"]), batch["size"]
    ys = run_edge(edge_of(work, batch, on_error="collect", preserve_order=order), range(size), batch["mode"])
    found = [y["index"] if is_item_error(y) else y // 2 for y in ys]
    assert (found if order else sorted(found)) == list(range(size))
    assert {y["index"] for y in ys if is_item_error(y)} == {index for index in batch["fails"] if index < size}
    assert work.gauge.most <= batch["bound"]
    assert work.gauge.total == size, "each is called once"


@settings(max_examples=40, deadline=None)
@given(batch=batches)
def test_resumed_until_it_is_done(batch: dict[str, Any]) -> None:
    """Each error ends a run; the next one goes on, and in the end every result is there once."""
    work, size = Work(batch["fails"], once=True), batch["size"]
    graph = graph_of(edge_of(work, batch), checkpointer=InMemorySaver())
    state: Any = {"xs": list(range(size))}
    ys: Any = None
    for _ in range(len(batch["fails"]) + 1):
        try:
            ys = run(graph, state, batch["mode"], thread())["ys"]
            break
        except ValueError:
            state = None
    assert ys == [x * 2 for x in range(size)]
    assert set(work.succeeded) == set(range(size))
    assert work.gauge.most <= batch["bound"]
