"""Looking up a setting: the context, then the environment, then files."""

from typing import Any, cast

from mahsm._context import environment, files
from mahsm._context.here import current
from mahsm._context.layer import Layer
from mahsm._context.values import (
    HIDDEN,
    MISSING,
    Path,
    copied_out,
    dig,
    laid_over,
    path_of,
    without_hidden,
)


def config(key: str | None, default: Any = None) -> Any:
    """Return a setting of the current context.

    Args:
        key: A dotted name, such as `models.default`.
        default: What is returned for a key that is not set, is set to None, or is empty or None itself.

    Returns:
        The value; containers are copies, and what is below `credentials` is a `Secret`.

    Raises:
        ContextError: if a file has to be read and is broken or unsafe, or a variable has no number.
    """
    return config_of(current(), key, default)


def config_of(layer: Layer, key: str | None, default: Any = None) -> Any:
    """Return a setting of a layer; as `config`."""
    if not isinstance(key, str) or not (path := path_of(key)):
        return default
    found = dig(layer.merged, path)
    if found is HIDDEN:
        return default
    if found is MISSING or isinstance(found, dict):
        found = _over_lower(path, found)
        return default if found is MISSING or found is HIDDEN else copied_out(without_hidden(found))
    return copied_out(found) if isinstance(found, list | tuple | set) else found


def sets_any(*sections: str) -> bool:
    """Return whether the context, the environment or a file sets anything in one of the sections.

    Raises:
        ContextError: if a file has to be read and is broken or unsafe.
    """
    merged, lower = current().merged, files.config()
    return any(name in merged or name in lower for name in sections) or environment.sets_any(sections)


def _over_lower(path: Path, found: Any) -> Any:
    """Return a setting that the context does not set, or a mapping laid over that of lower layers."""
    if found is MISSING:
        found = environment.value_of(path)
        if found is not MISSING:
            return found
    lower = _in_files(path)
    if found is MISSING and not isinstance(lower, dict):
        return lower if lower is not MISSING else environment.below(path) or MISSING
    below = cast("dict[str, Any]", lower) if isinstance(lower, dict) else {}
    return laid_over(laid_over(below, environment.below(path)), {} if found is MISSING else found)


def _in_files(path: Path) -> Any:
    found = dig(files.config(), path)
    if path[0] != "credentials" or (found is not MISSING and not isinstance(found, dict)):
        return found
    stored = dig({"credentials": files.credentials()}, path)
    if isinstance(found, dict) and isinstance(stored, dict):
        return laid_over(cast("dict[str, Any]", stored), cast("dict[str, Any]", found))
    return cast("Any", found) if isinstance(found, dict) else stored
