"""A fan-out in other processes does what the same edge does without them, whatever fails."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from mahsm import Retry, is_item_error, vmap
from mahsm.data import sinks, stream
from mahsm.edges._shared.finished import ItemEvent
from tests.edges.vmap.executors.faulty import FAULTS, calls, faulty, faulty_later
from tests.helpers import graph_of, thread

pytestmark = pytest.mark.slow


class State(TypedDict, total=False):
    xs: Any
    ys: Any
    errors: Any
    mark: str
    faults: dict[int, str]
    is_here: bool


@dataclass(frozen=True)
class Case:
    """A run: what is asked, what fails, and how it is run."""

    count: int
    faults: Mapping[int, str]
    on_error: str
    is_async: bool
    mode: str
    saver: str
    batch: str
    options: Mapping[str, Any]

    @property
    def has_sink(self) -> bool:
        return self.batch == "sink"


def cases(faults: Mapping[str, Any]) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        count=st.integers(0, 60),
        faults=st.dictionaries(st.integers(0, 59), st.sampled_from(list(faults)), max_size=2),
        on_error=st.sampled_from(["raise", "collect", "drop"]),
        is_async=st.booleans(),
        mode=st.sampled_from(["invoke", "ainvoke", "stream", "astream"]),
        saver=st.sampled_from(["none", "memory", "sqlite"]),
        batch=st.sampled_from(["list", "stream", "sink"]),
        options=st.fixed_dictionaries(
            {"max_concurrency": st.integers(1, 9), "progress": st.just("items")},
            optional={
                "retry": st.just(Retry(attempts=2, base=0)),
                "chunk_size": st.integers(1, 20),
                "timeout": st.just(300.0),
                "deadline": st.just(500.0),
                "dedupe_key": st.just(abs),
            },
        ),
    )


@dataclass
class Found:
    """What came of a run."""

    error: type[BaseException] | None = None
    values: Any = None
    failed: list[tuple[int, str, int]] = field(default_factory=list[tuple[int, str, int]])
    events: Counter[int] = field(default_factory=Counter[int])
    calls: Counter[int] = field(default_factory=Counter[int])


class Runner:
    """Runs a case in a folder, with an engine or without, as often as it is asked to."""

    def __init__(self, case: Case, engine: Any, folder: Path) -> None:
        self.case, self.folder, self.memory = case, folder, InMemorySaver()
        self.engine = engine

    def run(self, *, resumes: bool = False, engine: Any = None) -> Found:
        given = None if resumes and self.case.saver != "none" and not self.case.has_sink else self._given()
        found = Found()
        graph = self._edge(engine or self.engine)
        try:
            if self.case.mode in ("invoke", "stream"):
                state = self._driven(graph, given, found)
            else:
                state = asyncio.run(self._awaited(graph, given, found))
        except Exception as error:  # noqa: BLE001  compared
            found.error = type(error)
        else:
            self._read(state, found)
        found.calls = calls(self.folder)
        return found

    def _edge(self, engine: Any) -> Any:
        case, options = self.case, dict(self.case.options)
        if case.has_sink:
            options = {**options, "sink": sinks.Jsonl(self.folder / "out")}
        if case.batch != "list":
            options.pop("dedupe_key", None)
        target = faulty_later if case.is_async else faulty
        return vmap(target, batch_key="xs", out_key="ys", executor=engine, on_error=case.on_error, **options)

    def _given(self) -> dict[str, Any]:
        items: Any = list(range(self.case.count))
        if self.case.batch != "list":
            rows = self.folder / "rows.jsonl"
            if not rows.exists():  # a run is not resumed with a file that has changed
                rows.write_text("".join(f"{n}\n" for n in items))
            items = stream(rows)
        faults = dict(self.case.faults)
        return {"xs": items, "mark": str(self.folder), "faults": faults, "is_here": self.engine is None}

    @contextmanager
    def _saver(self) -> Iterator[Any]:
        if self.case.saver == "sqlite":
            with SqliteSaver.from_conn_string(str(self.folder / "db")) as saver:
                yield saver
        else:
            yield None if self.case.saver == "none" else self.memory

    @asynccontextmanager
    async def _async_saver(self) -> AsyncIterator[Any]:
        if self.case.saver == "sqlite":
            async with AsyncSqliteSaver.from_conn_string(str(self.folder / "db")) as saver:
                yield saver
        else:
            yield None if self.case.saver == "none" else self.memory

    def _driven(self, edge: Any, given: Any, found: Found) -> Any:
        with self._saver() as saver:
            graph = graph_of(edge, state=State, checkpointer=saver)
            if self.case.mode == "invoke":
                return graph.invoke(given, thread())
            return [self._take(each, found) for each in graph.stream(given, thread(), stream_mode=KINDS)][-1]

    async def _awaited(self, edge: Any, given: Any, found: Found) -> Any:
        async with self._async_saver() as saver:
            graph = graph_of(edge, state=State, checkpointer=saver)
            if self.case.mode == "ainvoke":
                return await graph.ainvoke(given, thread())
            events = graph.astream(given, thread(), stream_mode=KINDS)
            return [self._take(each, found) async for each in events][-1]

    def _take(self, event: Any, found: Found) -> Any:
        kind, value = event
        if kind == "custom" and isinstance(value, dict) and ItemEvent.__required_keys__ <= set(value):
            found.events[value["index"]] += 1
        return value

    def _read(self, state: Mapping[str, Any], found: Found) -> None:
        found.values = state.get("ys")
        if self.case.has_sink:
            report = state["ys"]
            found.values = report["rows"], report["errors"], sinks.read(self.folder / "out").collect()
            return
        found.failed = [(y["index"], y["type"], y["attempts"]) for y in found.values if is_item_error(y)]
        found.values = [None if is_item_error(y) else y for y in found.values]


KINDS: Any = ["updates", "custom", "messages", "tasks", "values"]


def check(case: Case, engine: Any) -> None:
    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as there:
        expected, runner = Runner(case, None, Path(here)).run(), Runner(case, engine, Path(there))
        found = runner.run()
        if expected.error is None:
            assert found == expected
            return
        of = {FAULTS[fault] for item, fault in case.faults.items() if item < case.count}
        assert found.error in of
        assert expected.error in of
        (Path(there) / "repaired").touch()
        again = runner.run(resumes=True)
        assert again.error is None
        values = again.values[2] if case.has_sink else again.values
        assert values == [n * n for n in range(case.count)]
        if case.options.get("chunk_size") == 1 and case.saver != "none" and "retry" not in case.options:
            assert all(count <= 2 for count in again.calls.values())


@pytest.fixture(scope="module")
def threads() -> Iterator[Any]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def loky() -> Iterator[Any]:
    pool = pytest.importorskip("loky").get_reusable_executor(2)
    yield pool
    pool.shutdown(kill_workers=True)


@pytest.mark.parametrize("name", ["own", "pool", "dask", "threads", "loky"])
def test_a_run_is_the_same_as_without_executor(name: str, request: pytest.FixtureRequest) -> None:
    engine = request.getfixturevalue(name)

    @settings(max_examples=EXAMPLES)
    @given(cases(FAULTS))
    def same(case: Case) -> None:
        check(case, engine)

    same()


EXAMPLES = 12
