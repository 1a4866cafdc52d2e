"""Runs `forward` again with the results of earlier calls, up to the call that is to be made now."""

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

# Replay.
#
# A node cannot keep a Python frame between two steps of a graph, so each node runs `forward` from its start.
# The n-th call of `forward` gets the n-th record of the state, without being made. When the records are used
# up, the next call is made if it belongs to this node, and is recorded. The call after that raises `Stopped`,
# and the graph goes to its node.
#
# Invariant: a node makes at most one call, and every call that has ended is recorded in the state before
# another one begins. So a run that is resumed repeats none of them. This requires that `forward` makes the
# same calls in the same order each time; a call whose path differs from its record is refused.
#
# Calls of tasks that `forward` starts may come in any order, so their records are found by path and
# arguments, and not by number. They are made one after the other: `_live` is set while one is being made, and
# others wait for it. Calls in threads are refused, since they could neither be ordered nor stopped.
#
# `Stopped` derives from BaseException, so that an `except Exception` in `forward` does not catch it. If some
# other handler does, `next` or `error` is set already, and each further call raises `Stopped` again.

BEGIN = "begin"
"""The node that runs `forward` up to its first call."""
FORWARD = "forward"
"""The node of calls outside sub-modules: those of modules that `forward` creates, and of language models."""


class Called(Protocol):
    """The module, tool or language model of a call.

    Attributes:
        path: Its name in the program, such as `self.inner.ask`.
        node: The node in which the call is made.
    """

    path: str
    node: str

    def predictors(self) -> list[tuple[str, Any, Any]]:
        """Return its predictors: each one's name, its placeholder in `forward`, and the predictor itself."""
        ...


class Stopped(BaseException):
    """Ends `forward` at a call. It is not an `Exception`, so that `forward` does not handle it."""


class Replay:
    """One run of `forward`: it replays the recorded calls, and makes the next one if it belongs to this node.

    Args:
        label: Name of the program, for errors.
        node: The node that is running.
        calls: The records of the calls so far.

    Attributes:
        node: The node that is running.
        next: The node of the call that stopped `forward`.
        error: The error that stopped `forward`, if it must not be handled there.
        made: The record of the call that was made here.
        stands: Modules and their placeholders in this run, by the id of the module.
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
        """True while the call is being made."""
        return self._live is not None

    @property
    def is_new(self) -> bool:
        """True if `forward` has come further than in all earlier runs."""
        return self.is_live or self.made is not None or self.node == BEGIN

    def is_live_here(self) -> bool:
        """Return whether this code runs in the call that is being made, or in a thread that it started."""
        return self.is_live and (is_in_call() or threading.get_ident() != self._thread)

    # Calls.

    def call(self, place: Called, make: Callable[[], Any], given: Any) -> Any:
        """Return the result of a call, from its record or by making it.

        Args:
            place: The module, tool or language model.
            make: Makes the call.
            given: Its arguments, which tell concurrent calls apart.

        Raises:
            Stopped: if the call has to be made in another node, or cannot be made.
        """
        self._check_thread(place)
        made = self._turn(place, asked := digest(given))
        if made is not None:
            return self._given(place, made)
        with self._making(place, asked) as keep:
            return keep(make())

    async def call_async(self, place: Called, make: Callable[[], Awaitable[Any]], given: Any) -> Any:
        """Async version of `call`; concurrent calls are made one after the other."""
        self._check_thread(place)
        while self._live is not None:
            await self._live.wait()
        made = self._turn(place, asked := digest(given))
        if made is not None:
            return self._given(place, made)
        with self._making(place, asked) as keep:
            return keep(await make())

    def _turn(self, place: Called, asked: str) -> Mapping[str, Any] | None:
        """Return the record of the call; None if it has to be made here."""
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
        """Return the index of the call's record: the next one, or for concurrent calls by its arguments."""
        if not self._is_one_of_several():
            return 0
        for index, made in enumerate(self._left):
            if (made["call"], made["given"]) == (place.path, asked):
                return index
        self._refuse(
            f"forward makes concurrent calls, in another order when it is run again: {place.path} is called "
            "with arguments that it was not called with before. Start them in an order that does not depend "
            "on timing."
        )

    @contextmanager
    def _making(self, place: Called, asked: str) -> Generator[Callable[[Any], Any], None, None]:
        """Record the call that the block makes; it passes the result to the function that is yielded."""
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
                    f"{place.path} returned a {kind}, which can be read only once. Return a list, or make "
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
        """Return the recorded result of a call, or raise its recorded error; add its entries to the trace."""
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
        """Return the entries that the call added to a trace that `forward` itself has set.

        In that trace, predictors are replaced by the placeholders that `forward` knows.
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
            # Kept as well as raised, since `forward` may handle it.
            self.error = GraphError(thread_error(self._label, place.path))
            raise self.error

    def _refuse_other(self, number: int, was: str, now: str) -> NoReturn:
        self._refuse(
            f"forward is not the same when it is run again: call {number} was {was!r}, now it is {now!r}. "
            "Its decisions must depend only on its inputs and on the results of its calls."
        )

    def _refuse(self, why: str) -> NoReturn:
        self.error = GraphError(f"{self._label}: {why}")
        raise Stopped

    def refuse_unseen(self) -> None:
        """Refuse a call of a language model that cannot be recorded.

        Raises:
            Stopped: unless this runs in a call that is being made.
        """
        if not self.is_live:
            self._refuse(
                "forward itself calls a language model other than that of dspy.settings. Such a call cannot "
                "be replayed. Call it in a module."
            )

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        """Run `forward` in the block."""
        self._thread, self._task = threading.get_ident(), _current_task()
        around = cast("list[Any] | None", dspy.settings.trace)
        trace = None if around is None else ForwardTrace(self, around)
        callbacks = [*cast("list[Any]", dspy.settings.callbacks), _Guard(self)]
        kept = _Kept(self, in_call=is_in_call())
        with calls.changed(keeper=kept), dspy.context(trace=trace, callbacks=callbacks):
            yield

    def _is_one_of_several(self) -> bool:
        """Return whether this runs in a task that `forward` has started, so that calls may be concurrent."""
        task = _current_task()
        return task is not None and task is not self._task


def _current_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def replay_here() -> Replay | None:
    """Return the run of `forward` around this code, if any."""
    keeper = calls.here().keeper
    return keeper.replay if isinstance(keeper, _Kept) else None


def is_in_call() -> bool:
    """Return whether this runs in a call that is being made, and not in `forward` itself."""
    keeper = calls.here().keeper
    return isinstance(keeper, _Kept) and keeper.in_call


def thread_error(label: str, path: str) -> str:
    return (
        f"{label}: {path} is called in a thread that forward starts, where a call cannot be a step of the "
        "graph. Fan out inside a sub-module, or with vmap."
    )


class ForwardTrace(list[Any]):
    """DSPy's trace of one run of `forward`, which passes new entries to the trace around it."""

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
    """Observes the models that modules call, and refuses calls of models that are not observed."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if replay_here() is self._replay:
            observe_here()

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if replay_here() is self._replay:
            self._replay.refuse_unseen()


class _Kept:
    """The keeper of calls that replays the language models that `forward` itself calls.

    From it, placeholders of modules also get the run of `forward` that they are called in.

    Args:
        replay: The run.
        in_call: True inside a call that is being made, False in `forward` itself.
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
