"""Runnables without retries of their own, for edges that retry."""

from collections.abc import Iterable
from functools import singledispatch
from typing import Any, cast

from langchain_core.language_models import BaseLanguageModel
from langchain_core.runnables import RunnableSerializable
from langchain_core.runnables.retry import RunnableRetry


@singledispatch
def single_try(value: Any) -> Any:
    """Return a copy of a Runnable without retries: no `with_retry`, and chat models with `max_retries=0`.

    A Runnable without retries is returned itself, and so is any value whose parts are unknown, such as a
    function.
    """
    return value


@single_try.register(RunnableRetry)
def _with_retry(value: Any) -> Any:
    return single_try(value.bound)


@single_try.register(BaseLanguageModel)
def _model(model: Any) -> Any:
    """Create the model anew. A copy would share its clients, which keep their number of retries."""
    kind = cast("Any", type(model))
    fields: dict[str, Any] = kind.model_fields
    if "max_retries" not in fields or model.max_retries == 0:
        return model
    given = {
        name: getattr(model, name)
        for name in model.model_fields_set
        if name in fields and not _is_client(name)
    }
    return kind(**{**given, "max_retries": 0})


@single_try.register(RunnableSerializable)
def _runnable(value: Any) -> Any:
    kind = cast("Any", type(value))
    fields: dict[str, Any] = {name: getattr(value, name) for name in kind.model_fields}
    changed = {name: made for name, part in fields.items() if (made := single_try(part)) is not part}
    return value.model_copy(update=changed) if changed else value


@single_try.register(list)
def _list(value: list[Any]) -> Any:
    parts = [single_try(part) for part in value]
    return parts if _differ(value, parts) else value


@single_try.register(dict)
def _dict(value: dict[Any, Any]) -> Any:
    parts = {key: single_try(part) for key, part in value.items()}
    return parts if _differ(value.values(), parts.values()) else value


def _is_client(field: str) -> bool:
    """Return whether a model sets this field by itself: `root_client`, but not the user's `http_client`."""
    return field.endswith("client") and not field.startswith("http")


def _differ(before: Iterable[Any], after: Iterable[Any]) -> bool:
    return any(old is not new for old, new in zip(before, after, strict=True))
