"""Documents of settings: YAML, of which only plain mappings, lists and values are read.

A first pass over the parser's events bounds the work, and refuses what may be hostile before any value is
made: aliases, which may expand to any size, tags, deep nesting. Errors name a line and never quote it, since
it may hold a credential.
"""

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from mahsm._context.values import DEEPEST
from mahsm.errors import ContextError

if TYPE_CHECKING:
    import yaml

LONGEST_NUMBER: Final = 400
"""Characters of a number; longer ones take long to convert."""


def parsed(data: bytes, path: str) -> dict[str, Any]:
    """Return the settings in a file; `{}` for an empty one.

    Args:
        data: The file's contents.
        path: Its path, for errors.

    Raises:
        ContextError: if it is not plain YAML, with a mapping at its top; the message has no content.
    """
    value, problem = _parsed(data)
    # Outside of `except`, so that the parser's error, which quotes the line, is not the context of this one.
    if problem:
        raise ContextError(f"{path}: {problem}. Repair or remove the file.")
    return value


def _parsed(data: bytes) -> tuple[dict[str, Any], str]:
    """Return the settings, and what is wrong with them, or an empty string."""
    import yaml

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return {}, f"byte {error.start} is not UTF-8; expected a text file"
    try:
        return (_value(text), "") if not (problem := _hostile(text)) else ({}, problem)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the document"
        repeated = isinstance(error, _repeated_key())
        return {}, f"{where}: " + ("a key occurs twice" if repeated else "not valid YAML")
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError):
        return {}, "not valid YAML, or a value that cannot be represented"
    except _NoMapping:
        return {}, "no mapping; expected lines such as 'name: value'"


class _NoMapping(Exception):
    """The document is a list or a single value."""


def _hostile(text: str) -> str:
    """Return why a document is not read, or an empty string."""
    import yaml

    depth, documents = 0, 0
    events = cast("Iterator[Any]", yaml.parse(text, Loader=_loader()))
    for event in events:
        line = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            return f"{line}: an anchor or alias; expected plain values, written out"
        if getattr(event, "tag", None) is not None:
            return f"{line}: a tag; expected plain values, without '!'"
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
        elif isinstance(event, yaml.ScalarEvent) and _is_long_number(event):
            return f"{line}: a number of {len(event.value)} digits; expected at most {LONGEST_NUMBER}"
        if depth > DEEPEST:
            return f"{line}: nested deeper than {DEEPEST} levels"
        if documents > 1:
            return f"{line}: a second document; expected one"
    return ""


def _is_long_number(event: "yaml.ScalarEvent") -> bool:
    value = cast("str", event.value)
    return len(value) > LONGEST_NUMBER and not event.style and value[:1] in "+-.0123456789"


def _value(text: str) -> dict[str, Any]:
    import yaml

    value: Any = yaml.load(text, Loader=_constructor())
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _NoMapping
    return cast("dict[str, Any]", value)


def written(settings: dict[str, Any], path: str) -> bytes:
    """Return a document of plain settings, in the order of their keys, which reads as the same settings.

    Raises:
        ContextError: if it would not, such as a string of characters that YAML does not have.
    """
    import yaml

    text: str = yaml.dump(settings, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=1_000)
    data = text.encode("utf-8", "surrogatepass")
    value, problem = _parsed(data)
    if problem or _differ(value, settings):
        problem = problem or "a value would be another one after reading"
        raise ContextError(f"{path} is not written: {problem}. Save plain strings and numbers.")
    return data


@cache
def _dumper() -> Any:
    """Return a dumper that writes values out where they occur again, without aliases."""
    import yaml

    def ignore_aliases(self: Any, data: object) -> bool:
        return True

    return type("PlainDumper", (yaml.SafeDumper,), {"ignore_aliases": ignore_aliases})


def _differ(one: dict[str, Any], other: dict[str, Any]) -> bool:
    # By repr, for which NaN equals itself.
    return repr(one) != repr(other)


def _loader() -> Any:
    import yaml

    # The one in C, if PyYAML has it.
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@cache
def _repeated_key() -> Any:
    import yaml

    return type("RepeatedKey", (yaml.constructor.ConstructorError,), {})


@cache
def _constructor() -> Any:
    """Return a loader that refuses a key that occurs twice: which of them counts depends on the parser."""
    base, repeated = _loader(), _repeated_key()

    def construct_mapping(self: Any, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                continue
            if key in seen:
                raise repeated(None, None, "a key occurs twice", key_node.start_mark)
            seen.add(key)
        return base.construct_mapping(self, node, deep)

    return type("PlainLoader", (base,), {"construct_mapping": construct_mapping})
