"""Nested values of settings: copied at the border, laid over each other, read by dotted keys.

Inside, dicts and lists are never changed and never handed out, so layers share them.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, cast

from mahsm._common import shown
from mahsm._context.secret import Secret, is_secret
from mahsm.errors import ContextError

DEEPEST: Final = 32
"""Levels of nested mappings and lists in a setting."""

SECTIONS: Final = {
    "models": "{'default': 'openai/gpt-4o-mini'}",
    "credentials": "{'openai_api_key': '...'}",
    "providers": "{'openai': {'api_key': '...'}}",
}
"""Keys that mahsm reads, which hold mappings, with an example of each."""

Tree = Mapping[str, Any]
Path = tuple[str, ...]

MISSING: Final = object()
"""A key that is not set."""
HIDDEN: Final = object()
"""A key that is set to None, or below a value that has no keys: lower layers do not count."""


@lru_cache(maxsize=4096)
def path_of(key: str) -> Path:
    """Return the parts of a dotted key; `()` if it is empty or has an empty part."""
    parts = tuple(key.split("."))
    return parts if all(parts) else ()


def checked_path(key: object) -> Path:
    """Return the parts of a dotted key.

    Raises:
        ContextError: for a key that is empty or no string.
    """
    if isinstance(key, str) and (path := path_of(key)):
        return path
    raise ContextError(f"key {shown(key)}; expected a dotted name, such as 'models.default'.")


def dig(tree: Tree, path: Path) -> Any:
    """Return the value at a path, `MISSING` or `HIDDEN`."""
    found: Any = tree
    for part in path:
        if not isinstance(found, dict):
            return HIDDEN
        found = cast("dict[str, Any]", found).get(part, MISSING)
        if found is MISSING:
            return MISSING
    return HIDDEN if found is None else found


def laid_over(lower: Tree, upper: Tree) -> dict[str, Any]:
    """Return a mapping with the keys of both; mappings are laid over each other, other values replaced."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        both = isinstance(below, dict) and isinstance(value, dict)
        merged[key] = laid_over(cast("Tree", below), cast("Tree", value)) if both else value
    return merged


def nested(path: Path, value: Any) -> dict[str, Any]:
    """Return the mapping that has only this value, at this path."""
    for part in reversed(path):
        value = {part: value}
    return value


def without_hidden(value: Any) -> Any:
    """Return the value without the keys that are None, at any depth of mappings."""
    if not isinstance(value, dict):
        return value
    items = cast("dict[str, Any]", value).items()
    return {key: without_hidden(each) for key, each in items if each is not None}


def copied_out(value: Any) -> Any:
    """Return a copy of a setting that its reader may change."""
    if isinstance(value, dict):
        return {key: copied_out(each) for key, each in cast("dict[Any, Any]", value).items()}
    # Subclasses, such as named tuples, may not be made of their elements.
    kind: Any = type(value)  # pyright: ignore[reportUnknownVariableType]
    return cast("Any", kind(map(copied_out, value)) if kind in (list, tuple, set) else value)


def copied_in(value: Any, path: tuple[object, ...], source: str = "") -> Any:
    """Return a copy of a value for a layer: containers are copied, credentials become `Secret`s.

    Args:
        value: Anything; objects other than dicts, lists, tuples and sets are kept as they are.
        path: The key of the value, for errors and to know credentials.
        source: The beginning of errors.

    Raises:
        ContextError: for values that are nested too deeply, and credentials that are not strings.
    """
    if len(path) > DEEPEST:
        raise ContextError(
            f"{source}{dotted(path[:3])}... is nested deeper than {DEEPEST} levels, or contains itself; "
            "expected plain settings."
        )
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {key: copied_in(each, (*path, key), source) for key, each in items}
    if is_secret(path):
        return secret_of(value, path, source)
    if type(value) in (list, tuple, set):
        # The place in a list is no key: it does not make a value a credential.
        return type(value)(copied_in(each, (*path, ""), source) for each in value)
    return value


def secret_of(value: Any, path: tuple[object, ...], source: str = "") -> Secret | None:
    """Return a credential as a `Secret`; None for None. The value is in no error."""
    reveal = getattr(value, "get_secret_value", None)
    plain = reveal() if callable(reveal) else value
    if plain is None:
        return None
    if not isinstance(plain, str):
        raise ContextError(
            f"{source}{dotted(path)} has a value of type {type(plain).__name__!r}; expected a string"
            f"{', in quotes' if source else ''}."
        )
    return Secret(plain)


def dotted(path: tuple[object, ...]) -> str:
    """Return a path as a dotted key."""
    return ".".join(map(str, path))


def checked(settings: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """Return copies of settings for a layer.

    Args:
        settings: By key.
        source: The beginning of errors.

    Raises:
        ContextError: as `copied_in`, and if a key that mahsm reads has no mapping.
    """
    copied = {key: copied_in(value, (key,), source) for key, value in settings.items()}
    for section, example in SECTIONS.items():
        _check_mapping(copied.get(section), (section,), example, source)
    for provider, value in cast("dict[str, Any]", copied.get("providers") or {}).items():
        _check_mapping(value, ("providers", provider), "{'api_key': '...'}", source)
    return copied


def _check_mapping(value: Any, path: Path, example: str, source: str) -> None:
    if value is not None and not isinstance(value, dict):
        raise ContextError(
            f"{source}{dotted(path)} has a value of type {type(value).__name__!r}; expected a mapping, such "
            f"as {example}."
        )


def leaves(tree: Tree, above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each value that is not a mapping, with its path."""
    for key, value in tree.items():
        path = (*above, str(key))
        if isinstance(value, dict) and value:
            yield from leaves(cast("Tree", value), path)
        else:
            yield path, value
