"""Placeholders for the modules and tools of a program inside `forward`, whose calls are steps of a graph."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, wraps
from inspect import iscoroutinefunction
from typing import Any, cast

import dspy

from mahsm._model_calls import restored_context
from mahsm.errors import GraphError
from mahsm.graph._recorded import fresh
from mahsm.graph._replay import FORWARD, Replay, is_in_call, replay_here, thread_error

_HOLDERS = (dspy.Module, dspy.Tool, list, tuple, dict)
_CHANGED = (list, tuple, dict, set, deque)
"""Types that may be changed in place, so that they are copied."""
_KEPT = frozenset({"history", "callbacks"})
"""Attributes of every module that are lists, but contain no modules."""


def parts_of(program: Any) -> Iterator[tuple[str, Any]]:
    """Yield the modules and tools in a program's attributes, lists and dicts, by the names that DSPy uses."""
    for name, value in _attributes(program):
        for key, entry in _entries(name, value):
            # LangGraph reserves these characters, so the calls of such parts belong to the node of forward.
            if _is_part(entry) and not any(sign in key for sign in ":|"):
                yield f"self.{name}{key}", entry


def with_stands(program: Any, current: Mapping[str, Any]) -> Any:
    """Return a copy of the program for one run of `forward`, with placeholders for its modules.

    Args:
        program: The program.
        current: The modules to call, by name; by default the program's own.
    """
    copied: Any = object.__new__(_wrapping(cast("Any", type(program)), "self", tuple(current)))
    for name, value in _attributes(program):
        vars(copied)[name] = _copied(name, value, current)
    return copied


def _copied(name: str, value: Any, current: Mapping[str, Any]) -> Any:
    """Return an attribute for the copy. Its lists and dicts are copied, since `forward` may change them."""
    entries = _entries(name, value)
    if name in _KEPT or not any(_is_part(entry) for _, entry in entries):
        return fresh(value) if name not in _KEPT and _may_change(value) else value
    found = [current.get(f"self.{name}{key}", entry) for key, entry in entries]
    return _refilled(value, found) if _is_container(name, value) else found[0]


def keep_attributes(program: Any, copied: Any, before: Mapping[str, Any]) -> None:
    """Set the attributes that `forward` has set on the copy on the program itself.

    Args:
        program: The program.
        copied: The copy.
        before: The attributes of the copy before `forward` ran.
    """
    for name, value in _attributes(copied):
        if name not in before or not _same(before[name], value):
            entries = [
                _unwrapped(entry) for entry in (_values(value) if _is_container(name, value) else [value])
            ]
            vars(program)[name] = _refilled(value, entries) if _is_container(name, value) else entries[0]


def snapshot(program: Any) -> dict[str, Any]:
    """Return the program's attributes, with copies of lists and dicts."""
    return {name: _copied(name, value, {}) for name, value in _attributes(program)}


class _Wrapping:
    """A module whose attributes are placeholders for the modules in it."""

    __slots__ = ()
    _mahsm_path: str
    _mahsm_nodes: tuple[str, ...]

    def __getattribute__(self, name: str) -> Any:
        value: Any = cast("Any", super()).__getattribute__(name)
        return (
            _held(self, name, value) if not name.startswith(("__", "_mahsm_")) and _may_hold(value) else value
        )

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Return predictors by name; inside `forward` they are placeholders."""
        kind, found = cast("Any", type(self)), cast("Any", super()).named_parameters()
        if is_in_call():
            return found
        return [
            (name, one if one is self else _stand(one, _joined(kind, name), kind._mahsm_nodes))
            for name, one in found
        ]


class _Placeholder(_Wrapping):
    """A placeholder for a module, whose call is a step of the graph.

    It shares the `__dict__` of the original module, so changes, such as by `set_lm`, apply to both. A copy of
    it has its own `__dict__`, and so is a module by itself.
    """

    __slots__ = ()
    _mahsm_node: str
    _mahsm_kind: type[Any]

    def __call__(self, *args: Any, **arguments: Any) -> Any:
        real = self._mahsm_real()
        if is_in_call():
            return real(*args, **arguments)
        return self._mahsm_replay().call(
            _Called(self, real), lambda: real(*args, **arguments), (args, arguments)
        )

    async def acall(self, *args: Any, **arguments: Any) -> Any:
        real = self._mahsm_real()
        if is_in_call():
            return await real.acall(*args, **arguments)
        replay = self._mahsm_replay()
        return await replay.call_async(
            _Called(self, real), lambda: real.acall(*args, **arguments), (args, arguments)
        )

    @property
    def _mahsm_module(self) -> Any:
        """The original module; None for a copy of the placeholder, which does not share its state."""
        real = getattr(self, "_mahsm_original", None)
        return real if real is not None and real.__dict__ is self.__dict__ else None

    def _mahsm_real(self) -> Any:
        """Return the module to call."""
        own = cast("Any", self)
        if own._mahsm_module is not None:
            return own._mahsm_module
        real = object.__new__(own._mahsm_kind)
        real.__dict__ = own.__dict__
        return real

    def _mahsm_replay(self) -> Replay:
        replay = _replay()
        if replay is None:
            raise GraphError(thread_error("dspy_program", self._mahsm_path))
        return replay


class _Called:
    """The call of a placeholder."""

    def __init__(self, stand: Any, real: Any) -> None:
        self._stand, self._real = stand, real
        self.path: str = stand._mahsm_path
        self.node: str = stand._mahsm_node

    def predictors(self) -> list[tuple[str, Any, Any]]:
        known, called = self._stand.named_predictors(), self._real.named_predictors()
        return [(name, one, other) for (name, one), (_, other) in zip(known, called, strict=True)]


class _ToolCalled:
    def __init__(self, path: str, node: str) -> None:
        self.path, self.node = path, node

    def predictors(self) -> list[tuple[str, Any, Any]]:
        return []


def _held(parent: Any, name: str, value: Any) -> Any:
    """Return an attribute as `forward` sees it, with placeholders for the modules and tools in it."""
    kind = cast("Any", type(parent))
    entries = _entries(name, value)
    if not any(_is_part(entry) for _, entry in entries):
        return value
    path = f"{kind._mahsm_path}.{name}"
    found = [
        _stand(entry, f"{path}{key}", kind._mahsm_nodes) if _is_part(entry) else entry
        for key, entry in entries
    ]
    return _refilled(value, found) if _is_container(name, value) else found[0]


@lru_cache(1024)
def _wrapping(kind: type[Any], path: str, nodes: tuple[str, ...]) -> type[Any]:
    return _derived(kind, _Wrapping, {"__slots__": (), "_mahsm_path": path, "_mahsm_nodes": nodes})


@lru_cache(1024)
def _stand_class(kind: type[Any], path: str, node: str, nodes: tuple[str, ...]) -> type[Any]:
    names = {"_mahsm_path": path, "_mahsm_node": node, "_mahsm_nodes": nodes, "_mahsm_kind": kind}
    return _derived(kind, _Placeholder, {"__slots__": ("_mahsm_original",), **names})


def _derived(kind: Any, mixin: type[Any], names: dict[str, Any]) -> type[Any]:
    """Create a subclass with the same name, for which `inspect` finds the source of the original."""
    found: dict[str, Any] = {
        name: vars(kind)[name] for name in ("__module__", "__firstlineno__") if name in vars(kind)
    }
    return type(kind)(kind.__name__, (mixin, kind), {"__qualname__": kind.__qualname__, **found, **names})


def _joined(kind: Any, name: str) -> str:
    """Return the name of a predictor in the program, given its name in a module."""
    return f"{kind._mahsm_path}.{name}".replace("['", "[").replace("']", "]")


def _stand(part: Any, path: str, nodes: tuple[str, ...]) -> Any:
    """Return the placeholder for a module or tool; it is the same object in one run of `forward`."""
    replay = _replay()
    if isinstance(part, _Placeholder) or replay is None:
        return part if isinstance(part, _Placeholder) else _new_placeholder(part, path, nodes)
    if id(part) not in replay.stands:
        replay.stands[id(part)] = part, _new_placeholder(part, path, nodes)
    return replay.stands[id(part)][1]


def _new_placeholder(part: Any, path: str, nodes: tuple[str, ...]) -> Any:
    node = max(
        (one for one in nodes if path == one or path.startswith((f"{one}.", f"{one}["))),
        key=len,
        default=FORWARD,
    )
    if isinstance(part, dspy.Tool):
        function = cast("Any", part).func
        return part.model_copy(update={"func": _stand_function(function, _ToolCalled(path, node))})
    stand: Any = object.__new__(_stand_class(cast("Any", type(part)), path, node, nodes))
    stand._mahsm_original = part
    stand.__dict__ = part.__dict__
    return stand


def _replay() -> Replay | None:
    with restored_context():
        return replay_here()


def _stand_function(function: Callable[..., Any], called: _ToolCalled) -> Callable[..., Any]:
    """Wrap a tool's function, so that its call is a step of the graph."""

    @wraps(function)
    def call(**arguments: Any) -> Any:
        found = _replay()
        if found is None or is_in_call():
            return function(**arguments)
        return found.call(called, lambda: function(**arguments), arguments)

    @wraps(function)
    async def call_async(**arguments: Any) -> Any:
        found = _replay()
        if found is None or is_in_call():
            return await function(**arguments)
        return await found.call_async(called, lambda: function(**arguments), arguments)

    # The function may also be an object with an async `__call__`.
    awaits = iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
    return call_async if awaits else call


def _unwrapped(value: Any) -> Any:
    return cast("Any", value)._mahsm_real() if isinstance(value, _Placeholder) else value


def _may_hold(value: Any) -> bool:
    """Return whether a value may contain modules, and is read by `forward` and not inside a call."""
    return isinstance(value, _HOLDERS) and not is_in_call()


def _attributes(program: Any) -> list[tuple[str, Any]]:
    return list(cast("dict[str, Any]", vars(program)).items())


def _is_part(value: Any) -> bool:
    return isinstance(value, dspy.Module | dspy.Tool)


def _is_plain_container(value: Any) -> bool:
    return type(value) in (list, tuple, dict)


def _is_container(name: str, value: Any) -> bool:
    return name not in _KEPT and _is_plain_container(value)


def _may_change(value: Any) -> bool:
    return isinstance(value, _CHANGED)


def _values(value: Any) -> Sequence[Any]:
    return (
        list(cast("dict[Any, Any]", value).values())
        if isinstance(value, dict)
        else cast("Sequence[Any]", value)
    )


def _entries(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return the entries of a list or dict by their suffix, such as `[0]`; else the value itself by `""`."""
    if not _is_container(name, value):
        return [("", value)]
    keys: Any = cast("dict[Any, Any]", value) if isinstance(value, dict) else range(len(value))
    return [(f"[{key}]", entry) for key, entry in zip(keys, _values(value), strict=True)]


def _refilled(value: Any, entries: list[Any]) -> Any:
    """Return a list, tuple or dict of the same type with other values."""
    if isinstance(value, dict):
        return dict(zip(cast("dict[Any, Any]", value), entries, strict=True))
    return type(value)(entries)


def _same(before: Any, after: Any) -> bool:
    if before is after or not (_may_change(before) and type(before) is type(after)):
        return before is after
    try:
        return bool(before == after)
    except Exception:  # noqa: BLE001
        # Arrays have no single truth value.
        return False
