"""Blocking calls of operators, in threads of their own with the caller's context and JAX settings.

Context variables are copied into the thread. JAX keeps its settings, such as `jax.enable_x64(True)`, per
thread, so they are set again in the new one. Its traces are per thread too, so a call that JAX traces stays
in its thread.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, TypeVar

from mahsm._numeric import jax, traced
from mahsm._waiting import LeftBehind, tasks

T = TypeVar("T")

_MANAGERS: dict[str, Callable[[Any], Any]] = {
    "jax_enable_x64": jax.enable_x64,
    "jax_default_device": jax.default_device,
    "jax_default_matmul_precision": jax.default_matmul_precision,
    "jax_default_prng_impl": jax.default_prng_impl,
    "jax_disable_jit": jax.disable_jit,
    "jax_debug_nans": jax.debug_nans,
    "jax_debug_infs": jax.debug_infs,
    "jax_numpy_dtype_promotion": jax.numpy_dtype_promotion,
    "jax_numpy_rank_promotion": jax.numpy_rank_promotion,
}
"""Settings that JAX keeps per thread, with the context managers that set them."""

_carried: ContextVar[Mapping[str, Any] | None] = ContextVar("mahsm_jax_settings", default=None)
"""JAX settings of the thread that called an operator. Set by `blocking`; read by `in_thread`."""


def _settings() -> dict[str, Any]:
    return {name: getattr(jax.config, name) for name in _MANAGERS}


async def in_thread(function: Callable[[], T], left: LeftBehind | None = None) -> T:
    """Await a blocking function, in a thread of its own with the caller's context and JAX settings.

    While JAX traces, the function is called in this thread. On cancellation, it runs on in its thread, and
    `left` counts it.
    """
    return function() if traced() else await tasks.in_thread(with_settings(function), left)


def with_settings(function: Callable[[], T]) -> Callable[[], T]:
    """Return a function that has the JAX settings of this thread in another one."""
    wanted = _carried.get() or _settings()

    def call() -> T:
        # The settings are now set in this thread, from where nested calls read them.
        _carried.set(None)
        with ExitStack() as stack:
            for name, value in wanted.items():
                if getattr(jax.config, name) != value:
                    stack.enter_context(_MANAGERS[name](value))
            return function()

    return call


def blocking(function: Callable[[], Awaitable[T]], *, awaits: bool) -> T:
    """Call an async function from synchronous code.

    Args:
        function: The function.
        awaits: True if the function awaits, and may need the caller's event loop.

    Raises:
        RuntimeError: on an event loop, if the function awaits: the call could block the loop forever.
    """
    if awaits and _on_a_loop():
        raise RuntimeError("an async operator was called on an event loop; expected await op.acall(input).")
    token = _carried.set(_settings())
    try:
        return tasks.call(function)
    finally:
        _carried.reset(token)


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
