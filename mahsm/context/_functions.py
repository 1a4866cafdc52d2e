"""The current context: getting it, and blocks with other settings."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from mahsm._context import config
from mahsm._context._internal import here
from mahsm.context._handle import Context


def get_context() -> Context:
    """Return a handle of the current context: that of the innermost block, else that of the thread or task.

    Examples:
        >>> from mahsm.context import get_context, with_context
        >>> with with_context(models={"default": "openai/gpt-4o-mini"}):
        ...     get_context().get_config("models.default", "none")
        'openai/gpt-4o-mini'
    """
    return Context(here.own())


def create_context(**overrides: Any) -> Context:
    """Return a new context over the current one; it is current in its `with` block.

    Args:
        overrides: Settings by section: `models` (`default` and options of calls), `credentials`
            (`openai_api_key`, ...), `providers`, and any others, which are yours. Containers are copied.

    Raises:
        ContextError: for a value that is not valid for a key that mahsm reads.

    Examples:
        >>> from mahsm.context import create_context, get_config
        >>> with create_context(models={"default": "gpt-4"}) as child:
        ...     print(child.get_config("models.default"), get_config("models.default"))
        gpt-4 gpt-4
    """
    return Context(here.current().child(overrides))


@contextmanager
def with_context(**overrides: Any) -> Generator[Context, None, None]:
    """Return a block with other settings; it decorates functions, too.

    Args:
        overrides: As for `create_context`.

    Raises:
        ContextError: for a value that is not valid for a key that mahsm reads.

    Examples:
        >>> from mahsm.context import get_config, with_context
        >>> with with_context(search={"depth": 3}):
        ...     get_config("search.depth")
        3
        >>> get_config("search.depth", "not set")
        'not set'
    """
    with create_context(**overrides) as context:
        yield context


def get_config(key: str | None, default: Any = None) -> Any:
    """Return a setting: of the current context, else of the environment, else of the files.

    Args:
        key: A dotted name, such as `models.default`.
        default: What is returned if the key is not set, is set to None, or is empty or None itself.

    Raises:
        ContextError: if a file is broken or unsafe, or an environment variable should be a number.

    Examples:
        >>> from mahsm.context import get_config
        >>> get_config("search.depth", 2)
        2
    """
    return config(key, default)


def set_config(key: str, value: Any) -> None:
    """Set a value in the current context, for this thread or task and those that start from it.

    Args:
        key: A dotted name, such as `models.temperature`.
        value: Anything. Containers are copied, a mapping is laid over the present one, and None hides what is
            set further out.

    Raises:
        ContextError: if the key is empty, or the value is not valid for a key that mahsm reads.

    Examples:
        >>> from mahsm.context import get_config, set_config, with_context
        >>> with with_context():
        ...     set_config("search.depth", 4)
        ...     get_config("search")
        {'depth': 4}
    """
    get_context().set_config(key, value)
