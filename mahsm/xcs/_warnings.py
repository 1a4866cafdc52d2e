"""Warnings of functions that cannot be rewritten."""

import warnings

_warned: set[str] = set()


def runs_plainly(name: str) -> None:
    """Warn, once for each name, that a function runs as it is, its steps one after the other."""
    if name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"xcs.jit: the source of {name} is missing or has changed, so it runs as it is, with its steps "
            "one after the other. Define it in a file or a notebook, or mark it with @xcs.step.",
            RuntimeWarning,
            stacklevel=4,
        )
