"""The current context: a layer in a context variable, which tasks and edge workers inherit."""

import threading
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import replace
from typing import Final

from mahsm._context.layer import Block, Layer
from mahsm._context.values import Tree
from mahsm._model_calls import around_thread

_here: ContextVar[Layer | None] = ContextVar("mahsm_context", default=None)

SETTING: Final = "mahsm_context"
"""The setting of DSPy in which a block hands its context to threads of DSPy's."""

NOTHING: Final = Layer({})
"""The layer of a thread or task in which nothing was set: environment and files count."""


def current() -> Layer:
    """Return the current layer."""
    return _present() or NOTHING


def own() -> Layer:
    """Return the current layer; in a thread or task that has none, a new one begins."""
    layer = _present() or Layer({})
    _here.set(layer)
    return layer


def _present() -> Layer | None:
    """Return the layer of this thread or task; in a thread of DSPy's, that of the code that started it."""
    layer = _here.get()
    # DSPy's settings take longer to read than all the rest, and the main thread is none of its threads.
    if layer is None and threading.get_ident() != threading.main_thread().ident:
        handed, around = around_thread(_here, SETTING)
        layer = around if handed is None or _is_inside(around, handed) else handed
    return layer


def _is_inside(layer: Layer | None, other: Layer) -> bool:
    """Return whether a layer is a version of another one, or of a block inside it."""
    while layer is not None and layer.lineage is not other.lineage:
        layer = layer.block and layer.block.outer
    return layer is not None


def version(lineage: object) -> Layer | None:
    """Return the version of a context that is open in this thread or task, innermost; None if it is not."""
    layer = _present()
    while layer is not None and layer.lineage is not lineage:
        layer = layer.block and layer.block.outer
    return layer


def change(lineage: object, values: Tree) -> None:
    """Change a context that is open in this thread or task, only there; no-op if it is not open."""
    if version(lineage) is not None:
        _here.set(_changed(_present(), lineage, values))


def _changed(layer: Layer | None, lineage: object, values: Tree) -> Layer | None:
    """Return a layer whose innermost version of a context, itself or around its block, has more values.

    The layers inside that version were made before the change, and keep what they have.
    """
    if layer is None or layer.lineage is lineage:
        return layer and layer.with_values(values)
    block = layer.block
    return block and replace(layer, block=replace(block, outer=_changed(block.outer, lineage, values)))


def enter(layer: Layer) -> ExitStack:
    """Make a layer current, and return a stack for what its block has to leave."""
    leaving = ExitStack()
    _here.set(replace(layer, block=Block(_here.get(), leaving)))
    return leaving


def leave(lineage: object) -> Layer | None:
    """End the innermost block of a context, and all blocks inside it that are still open.

    Returns:
        The last layer of the context; None if the context has no open block in this thread or task.
    """
    inside: list[Block] = []
    layer = _here.get()
    while layer is not None and layer.block is not None:
        inside.append(layer.block)
        if layer.lineage is lineage:
            _here.set(layer.block.outer)
            for block in inside:
                block.leaving.close()
            return replace(layer, block=None)
        layer = layer.block.outer
    return None
