"""`forward`, run again with the calls that it has made before, up to the one that is to be made now."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol, cast

import dspy
from dspy.utils.callback import BaseCallback
from langgraph.errors import GraphBubbleUp

from mahsm._model_calls import calls, observe_here
from mahsm.errors import BudgetExceeded, GraphError
from mahsm.graph._recorded import digest, recorded, recorded_error, replayed, replayed_error
from mahsm.policies._internal import check_budgets

BEGIN = "begin"
"""The node that runs `forward` until it calls for the first time."""
FORWARD = "forward"
"""The node of calls that are no sub-module's: of modules that `forward` makes itself, and of language
models."""


class Called(Protocol):
    """What a call is of.

    Attributes:
        path: Its name in the program: `self.inner.ask`.
        node: The node in which it is made.
    """

    path: str
    node: str

    def predictors(self) -> list[tuple[str, Any, Any]]:
        """The predictors in it: the name, what `forward` knows it as, and what is called."""
        ...


class Stopped(BaseException):
    """`forward` goes no further here; no `except Exception` of its shall stop that."""


class Replay:
    """One run of `forward`: next to the calls that were made before, it makes the next one, if this is its
    node.

    Args:
        label: Who says so in errors.
        node: The node that is running.
        calls: The calls that were made, with what they gave.

    Attributes:
        node: The node that is running.
        next: The node in which the call is to be made that stopped `forward`.
        error: What stopped it, if that was an error that it may not handle.
        made: What the call gave that was made here, as it is recorded.
        stands: What stands for the modules in this run, with them, by their numbers.
    """

    def __init__(self, label: str, node: str, calls: Sequence[Mapping[str, Any]]) -> None:
        self.next: str | None = None
        self.error: BaseException | None = None
        self.made: dict[str, Any] | None = None
        self.stands: dict[int, tuple[Any, Any]] = {}
        self._label = label
        self.node = node
        self._calls = calls
        self._left = list(calls)
        self._live: asyncio.Event | None = None
        self._thread = 0
        self._task: asyncio.Task[Any] | None = None

    @property
    def is_live(self) -> bool:
        """Whether the call is being made."""
        return self._live is not None

    @property
    def is_new(self) -> bool:
        """Whether `forward` has come as far as it never was before."""
        return self.is_live or self.made is not None or self.node == BEGIN

    def is_live_here(self) -> bool:
        """Whether this is in the call that is being made, which may have threads of its own."""
        return self.is_live and (is_in_call() or threading.get_ident() != self._thread)

    # Calls.

    def call(self, place: Called, make: Callable[[], Any], given: Any) -> Any:
        """What the call gives.

        Args:
            place: What is called.
            make: Makes the call.
            given: What it is called with, which tells calls at the same time apart.

        Raises:
            Stopped: if it is to be made in another node, or cannot be made at all.
        """
        self._check_thread(place)
        made = self._turn(place, asked := digest(given))
        if made is not None:
            return self._given(place, made)
        with self._making(place, asked) as keep:
            return keep(make())

    async def call_async(self, place: Called, make: Callable[[], Awaitable[Any]], given: Any) -> Any:
        """Async version of `call`; calls at the same time are made one after the other."""
        self._check_thread(place)
        while self._live is not None:
            await self._live.wait()
        made = self._turn(place, asked := digest(given))
        if made is not None:
            return self._given(place, made)
        with self._making(place, asked) as keep:
            return keep(await make())

    def _turn(self, place: Called, asked: str) -> Mapping[str, Any] | None:
        """The call's record; None if it is to be made here and now."""
        if self.next is not None or self.error is not None:
            raise Stopped
        number = len(self._calls) - len(self._left)
        if self._left:
            made = self._left.pop(self._place_of(place, asked))
            if made["call"] != place.path:
                self._refuse_other(number, made["call"], place.path)
            return made
        if self.made is None and self.node == place.node:
            return None
        if self.made is None and self.node not in (BEGIN, FORWARD):
            self._refuse_other(number, self.node, place.path)
        self.next = place.node
        raise Stopped

    def _place_of(self, place: Called, asked: str) -> int:
        """Which of the records left is the call's: the next one; of calls at the same time, that with its
        arguments.
        """
        if not self._is_one_of_several():
            return 0
        for index, made in enumerate(self._left):
            if (made["call"], made["given"]) == (place.path, asked):
                return index
        self._refuse(
            f"forward makes calls at the same time, and in another order when it is run again: {place.path} "
            "is called with what it was not called with before. Start them in an order that does not depend "
            "on time."
        )

    @contextmanager
    def _making(self, place: Called, asked: str) -> Generator[Callable[[Any], Any], None, None]:
        """The block makes the call, and hands in what it gave."""
        self._live = asyncio.Event()
        trace = cast("Any", dspy.settings.trace)
        own = None if trace is None or isinstance(trace, ForwardTrace) else trace
        before = 0 if own is None else len(own)
        known = {} if own is None else {id(called): (name, one) for name, one, called in place.predictors()}

        def done(**outcome: Any) -> None:
            steps = [] if own is None else self._traced(known, own, before)
            self.made = {"call": place.path, "given": asked, **outcome, **({"trace": steps} if steps else {})}

        def keep(result: Any) -> Any:
            if isinstance(result, Iterator | Awaitable):
                kind = type(cast("object", result)).__name__
                self._refuse(
                    f"{place.path} gave a {kind}, which can be read once only. Give a list, or make "
                    "it async def."
                )
            done(result=recorded(result))
            return result

        try:
            check_budgets()
            with calls.changed(keeper=_Kept(self, in_call=True)):
                yield keep
        except (GraphBubbleUp, BudgetExceeded) as through:
            self.error = through
            raise Stopped from through
        except asyncio.CancelledError:
            self.error = GraphError(
                f"{self._label}: {place.path} was cancelled, perhaps by a timeout of forward's own, and such "
                "a call cannot be replayed. Set the timeout in a sub-module."
            )
            raise
        except Exception as error:
            try:
                done(error=recorded_error(error))
            except GraphError as unknown:
                self._refuse(f"{place.path} failed, and {unknown}")
            raise
        finally:
            live, self._live = self._live, None
            live.set()

    def _given(self, place: Called, made: Mapping[str, Any]) -> Any:
        """What the call gave when it was made."""
        try:
            trace = cast("Any", dspy.settings.trace)
            if steps := made.get("trace", ()):
                names = {name: known for name, known, _ in place.predictors()}
                trace.extend(
                    (names[step["name"]], replayed(step["inputs"]), replayed(step["outputs"]))
                    for step in steps
                )
            if "error" not in made:
                return replayed(made["result"])
            error = replayed_error(made["error"])
        except GraphError as unknown:
            self._refuse(f"{place.path}: {unknown}")
        raise error

    @staticmethod
    def _traced(known: Mapping[int, tuple[str, Any]], trace: Any, before: int) -> list[dict[str, Any]]:
        """What the call added to a trace that `forward` keeps by itself, with predictors as `forward` knows
        them.
        """
        added = trace[before:]
        trace[before:] = [(known.get(id(step[0]), step[:1])[-1], *step[1:]) for step in added]
        return [
            {"name": known[id(predictor)][0], "inputs": recorded(dict(inputs)), "outputs": recorded(outputs)}
            for predictor, inputs, outputs in added
            if id(predictor) in known
        ]

    # Around it.

    def _check_thread(self, place: Called) -> None:
        if threading.get_ident() != self._thread:
            self.error = GraphError(thread_error(self._label, place.path))  # also if forward handles it
            raise self.error

    def _refuse_other(self, number: int, was: str, now: str) -> NoReturn:
        self._refuse(
            f"forward is not the same when it is run again: call {number} was {was!r}, now it is {now!r}. "
            "What it decides has to depend on its inputs and on results of its calls only."
        )

    def _refuse(self, why: str) -> NoReturn:
        self.error = GraphError(f"{self._label}: {why}")
        raise Stopped

    def refuse_unseen(self) -> None:
        """A language model is called where nobody can keep what it gives.

        Raises:
            Stopped: always, unless this is in a call that is being made.
        """
        if not self.is_live:
            self._refuse(
                "forward calls a language model itself, and not that of dspy.settings around it. Such a call "
                "cannot be replayed. Call it in a module."
            )

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """A block in which `forward` runs."""
        self._thread, self._task = threading.get_ident(), _current_task()
        around = cast("list[Any] | None", dspy.settings.trace)
        trace = None if around is None else ForwardTrace(self, around)
        callbacks = [*cast("list[Any]", dspy.settings.callbacks), _Guard(self)]
        kept = _Kept(self, in_call=is_in_call())
        with calls.changed(keeper=kept), dspy.context(trace=trace, callbacks=callbacks):
            yield

    def _is_one_of_several(self) -> bool:
        """Return whether this is a task that `forward` has started, which may have others beside it."""
        task = _current_task()
        return task is not None and task is not self._task


def _current_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def replay_here() -> Replay | None:
    """The run of `forward` that this is in."""
    keeper = calls.here().keeper
    return keeper.replay if isinstance(keeper, _Kept) else None


def is_in_call() -> bool:
    """Return whether this is a call that is being made, and not `forward` itself."""
    keeper = calls.here().keeper
    return isinstance(keeper, _Kept) and keeper.in_call


def thread_error(label: str, path: str) -> str:
    return (
        f"{label}: {path} is called in a thread that forward starts, where a call cannot be a step of the "
        "graph. Fan out in a sub-module of its own, or with vmap."
    )


class ForwardTrace(list[Any]):
    """DSPy's trace of one run of `forward`, which hands on what is new to the trace around."""

    def __init__(self, replay: Replay, around: list[Any]) -> None:
        super().__init__()
        self._replay = replay
        self._around = around

    def append(self, entry: Any) -> None:
        self.extend([entry])

    def extend(self, entries: Any) -> None:
        if self._replay.is_new:
            self._around.extend(entries)
            del self._around[: max(0, len(self._around) - cast("int", dspy.settings.max_trace_size))]


class _Guard(BaseCallback):
    """Lets models be seen that modules call, and refuses calls that nobody sees."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if replay_here() is self._replay:
            observe_here()

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if replay_here() is self._replay:
            self._replay.refuse_unseen()


class _Kept:
    """What language models give that `forward` calls itself, kept by a run of it.

    As the keeper of calls it also says, to the stands of modules, which run of `forward` they are called in.

    Args:
        replay: The run.
        in_call: This is in a call that is being made, and not in `forward` itself.
    """

    path = "a language model"
    node = FORWARD

    def __init__(self, replay: Replay, *, in_call: bool) -> None:
        self.replay = replay
        self.in_call = in_call

    def predictors(self) -> list[tuple[str, Any, Any]]:
        return []

    def call(self, make: Callable[[], Any], given: Any) -> Any:
        return make() if self.replay.is_live_here() else self.replay.call(self, make, given)

    async def call_async(self, make: Callable[[], Awaitable[Any]], given: Any) -> Any:
        return await (make() if self.replay.is_live_here() else self.replay.call_async(self, make, given))
