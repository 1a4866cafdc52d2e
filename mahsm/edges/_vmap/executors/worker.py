"""A part of a batch in a worker: a run of the edge over a few items, which sends back each outcome."""

import asyncio
import importlib
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.runtime import Runtime

from mahsm._common import Answer, Update, add_note
from mahsm._model_calls import Meter, metered
from mahsm._waiting import TASK, THREAD, Decided, Slots, run_blocking, tasks
from mahsm.edges._shared.items import Item
from mahsm.edges._shared.run import to_nobody
from mahsm.edges._shared.session import Session
from mahsm.edges._shared.streams import RUNTIME
from mahsm.edges._vmap.executors.crossing import digest_of, named, versions
from mahsm.edges._vmap.executors.marks import marked
from mahsm.edges._vmap.executors.processes import end_with_parent
from mahsm.edges._vmap.executors.program import Program, share_of
from mahsm.edges._vmap.executors.sharing import adopted
from mahsm.edges._vmap.executors.values import packed_entries, packed_error
from mahsm.edges._vmap.lowering import VmapLowering
from mahsm.edges._vmap.results import Taker
from mahsm.edges._vmap.run import VmapRun
from mahsm.edges._vmap.spec import VmapSpec
from mahsm.edges._vmap.together import Together


class Part(NamedTuple):
    """What a worker is to do.

    Attributes:
        places: The items' places in the whole batch.
        items: The items.
        share: How many of them may run at a time in a worker, together with those of other parts.
        workers: How many workers share the edge's rate limit, unless all processes do.
        stops: True if the first failure ends the part.
        seconds: Seconds that are left until the edge's deadline, if it has one.
        orphans: True if the worker has to end by itself when the process that started it is gone.
        mark: A name for the mark of a part that is running, where the engine may run it again after a death.
    """

    places: Sequence[int]
    items: Sequence[Any]
    share: int
    workers: int
    stops: bool
    seconds: float | None
    orphans: bool
    mark: str


@dataclass
class Reply:
    """What came of a part.

    Attributes:
        refusal: Why the part was not run, if it was not.
        is_unknown: True if the worker does not have the program.
        is_lost: True if a worker of this machine has died with the part.
        exit: The pickled `SystemExit` or `KeyboardInterrupt` that has ended the part.
        entries: The pickled entries, by the items' numbers in the part; a list if all have one.
        failures: The pickled errors of items, and their attempts, by the items' numbers in the part.
        answers: The answers of models; None for a call that failed.
        attempts: Attempts that called no model that is known.
    """

    refusal: str = ""
    is_unknown: bool = False
    is_lost: bool = False
    exit: bytes = b""
    entries: bytes = b""
    failures: Mapping[int, tuple[bytes, int]] | None = None
    answers: Sequence[Answer | None] = ()
    attempts: int = 0


class _Loaded:
    """A program in a worker.

    Attributes:
        slots: What its parts share.
    """

    def __init__(self, blob: bytes, share: int) -> None:
        self.program: Program = pickle.loads(blob)
        self.slots = Slots(share)
        self._specs: dict[tuple[int, int], VmapSpec] = {}

    def spec(self, share: int, workers: int) -> VmapSpec:
        """Return the specification of the edge.

        Args:
            share: How many items it runs at a time here.
            workers: How many workers there are.
        """
        is_shared, limit = adopted.sharing(self.program.sharing), self.program.rate_limit
        if limit is not None:
            limit = limit if is_shared else share_of(limit, workers)
            adopted.limit(limit)
        kind = share, 0 if is_shared else workers
        if kind not in self._specs:
            make = self.program.make
            target, *_ = make.args
            given: dict[str, Any] = {**make.keywords, "max_concurrency": share}
            if isinstance(target, str):
                target = named(str(given["name"]), target)
            if isinstance(target, StateGraph):
                target = cast("Any", target).compile()
            if isinstance(bounds := given["adaptive"], tuple):
                given["adaptive"] = tuple(min(bound, share) for bound in cast("tuple[int, int]", bounds))
            if limit is not None:
                given["rate_limit"] = limit
            edge: Any = make.func(target, **given)
            self._specs[kind] = edge._items.spec
        return self._specs[kind]


_lock = threading.Lock()
_programs: OrderedDict[str, _Loaded] = OrderedDict()
_KEPT = 8
"""Programs that a worker keeps."""


def run_part(theirs: dict[str, str], modules: dict[str, str], digest: str, blob: bytes, work: bytes) -> bytes:
    """Run a part. An executor calls this in a worker; all that crosses is bytes and names.

    Args:
        theirs: The versions of the process that sent the part.
        modules: Digests of the modules whose functions the program names.
        digest: The digest of the program.
        blob: The program, or nothing if the worker should have it.
        work: The `Part`.

    Returns:
        The `Reply`.
    """
    if refusal := _refusal(theirs, modules):
        return pickle.dumps(Reply(refusal=refusal))
    part = Part(*pickle.loads(work))
    if part.orphans:
        _orphans()
    try:
        loaded = _loaded(digest, blob, part.share)
    except Exception as error:  # noqa: BLE001  the parent raises it
        return pickle.dumps(
            Reply(refusal=f"a worker cannot load the target: {type(error).__name__}: {error}")
        )
    if loaded is None:
        return pickle.dumps(Reply(is_unknown=True))
    with marked(part.mark) as was_there:
        if was_there:
            return pickle.dumps(Reply(is_lost=True))
        try:
            return _PartOf(loaded, part).reply()
        except (SystemExit, KeyboardInterrupt) as error:
            # Some engines take it as the end of the worker, and begin the part again.
            return pickle.dumps(Reply(exit=packed_error(error)))


def _refusal(theirs: dict[str, str], modules: dict[str, str]) -> str:
    mine = versions()
    if mine != theirs:
        differs = [
            f"{name} {mine.get(name)} and not {theirs[name]}"
            for name in theirs
            if mine.get(name) != theirs[name]
        ]
        return f"a worker has {', '.join(differs)}. Install the same versions on all machines."
    for name, digest in modules.items():
        try:
            there = digest_of(importlib.import_module(name))
        except ImportError as error:
            return (
                f"a worker cannot import {name!r}: {error}. Install it there, or call "
                f"cloudpickle.register_pickle_by_value({name})."
            )
        if there and there != digest:
            return (
                f"the source of the module {name!r} differs on a worker. Install the same there and start "
                f"the workers again, or call cloudpickle.register_pickle_by_value({name})."
            )
    return ""


_is_orphan_safe = threading.Event()


def _orphans() -> None:
    with _lock:
        if not _is_orphan_safe.is_set():
            _is_orphan_safe.set()
            end_with_parent()


def _loaded(digest: str, blob: bytes, share: int) -> _Loaded | None:
    with _lock:
        found = _programs.get(digest)
        if found is None:
            if not blob:
                return None
            found = _programs[digest] = _Loaded(blob, share)
            while len(_programs) > _KEPT:
                _programs.popitem(last=False)
        _programs.move_to_end(digest)
        if found.slots.limit != share:
            found.slots.resize(share)
        return found


class _Tally(Meter):
    """Counts the attempts of a part, and keeps the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Answer | None] = []

    def end_call(self, answer: Answer | None) -> None:
        super().end_call(answer)
        with self._lock:
            self.all.append(answer)


class _PartOf:
    """A part that a worker runs.

    Args:
        loaded: Its program.
        part: The part.
    """

    def __init__(self, loaded: _Loaded, part: Part) -> None:
        self.loaded, self.part = loaded, part
        spec = loaded.spec(part.share, part.workers)
        if part.seconds is not None:
            spec = replace(spec, ends=replace(spec.ends, deadline=max(part.seconds, 1e-3)))
        self.spec = spec
        self.tally = _Tally()
        self.run: _PartRun | None = None

    def reply(self) -> bytes:
        """Run the part; return the reply."""
        spec, program = self.spec, self.loaded.program
        lowering = _PartLowering(spec, self)
        config = cast("RunnableConfig", {**program.config})
        config["configurable"] = {**config.get("configurable", {}), RUNTIME: Runtime()}
        run = partial(lowering.run, state={**program.state}, config=config)
        with ExitStack() as stack:
            for around in _around(program):
                stack.enter_context(around)
            if program.counts:
                stack.enter_context(metered(self.tally))
            if spec.target.async_ is None:
                run_blocking(run(THREAD))
            else:
                asyncio.run_coroutine_threadsafe(run(TASK), tasks.worker_loop()).result()
        return self._packed()

    def _packed(self) -> bytes:
        run = self.run
        assert run is not None
        seen = [answer for answer in self.tally.all if answer is None or not answer.cached]
        entries, unsent = packed_entries(self.spec.name, run.entries, len(self.part.items))
        reply = Reply(
            entries=entries,
            failures={**run.failures, **{number: (error, 1) for number, error in unsent.items()}},
            answers=self.tally.all,
            attempts=max(0, self.tally.calls - len(seen)),
        )
        return pickle.dumps(reply, protocol=5)


def _around(program: Program) -> Iterable[AbstractContextManager[Any]]:
    """Return the blocks around a part: the trace, and DSPy's settings."""
    if program.trace is not None:
        yield program.trace()
    if program.dspy is not None:
        yield program.dspy()


class _PartLowering(VmapLowering):
    """The lowering of an edge that runs one part, without a subgraph."""

    def __init__(self, spec: VmapSpec, part: _PartOf) -> None:
        super().__init__(spec)
        self._part = part

    def _begin(self, around: Session, items: Sequence[Any] = (), streamed: Any = None) -> VmapRun:
        shared = (*around.shared, self._part.loaded.slots)
        self._part.run = _PartRun(self.spec, replace(around, shared=shared), self._part)
        return self._part.run

    def _opened(self, around: Session) -> AbstractAsyncContextManager[Callable[[Session], VmapRun]]:
        return nullcontext(self._begin)

    async def _invoked(self, run: VmapRun) -> dict[str, Any]:
        await Together(run).lead(run.firsts, run.config)
        return {}

    async def _finish(self, run: VmapRun, done: list[Any]) -> Update:
        return {}


class _PartRun(VmapRun):
    """A run over one part, which only takes note of outcomes: what becomes of them, the parent decides."""

    def __init__(self, spec: VmapSpec, around: Session, part: _PartOf) -> None:
        self._places, self._of_all = part.part.places, part.loaded.program.total
        self._stops, self._thread = part.part.stops, part.loaded.program.thread
        self._batch_key, self._updates = part.loaded.program.batch_key, part.loaded.program.updates
        self.entries: dict[int, Any] = {}
        self.failures: dict[int, tuple[bytes, int]] = {}
        super().__init__(spec, around, part.part.items)
        self.alone, self.direct, self.saved, self.saving = False, True, False, None
        self._item_writer = to_nobody

    def item(self, index: int) -> Item:
        return super().item(self._places[index])

    def part(self, label: str, index: int, total: int) -> AbstractContextManager[Any]:
        return super().part(label, self._places[index], self._of_all)

    def _succeeded(self, place: int, update: Update, sink: Taker, *, called: bool = False) -> None:
        self.entries[place] = update if self._updates else self.spec.entry(update)
        self.tally.settled(place)

    def _failed(
        self, place: int, error: BaseException, sink: Taker, attempts: int, *, called: bool = False
    ) -> None:
        if isinstance(self.ended, TimeoutError):
            return  # the edge's deadline is over, which the parent says of each item
        if isinstance(error, KeyError) and error.args == (self._batch_key,):
            add_note(error, f"workers get no {self._batch_key!r}, only its items: pass item_to_state=")
        self.tally.settled(place)
        self.failures[place] = packed_error(error), attempts
        if self._stops and not self._ended:
            self.end(Decided(f"{self.name}: an item has failed"), cancel=True)

    def item_config(self, config: RunnableConfig, *, shared: bool = False) -> RunnableConfig:
        given = super().item_config(config, shared=shared)
        own: dict[str, Any] = given.get("configurable", {})
        return cast("RunnableConfig", {**given, "configurable": {**own, **self._thread}})

    def close_items(self, places: Iterable[int], sink: Taker) -> None:
        """Leave items without an outcome to the parent."""

    @property
    def is_empty(self) -> bool:
        return False
