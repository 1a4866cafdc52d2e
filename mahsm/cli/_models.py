"""`mahsm models`: the known models."""

from dataclasses import asdict, dataclass
from typing import Any, cast

from mahsm.cli._outcome import Flag, Json, Output, UsageError


@dataclass(frozen=True)
class Model:
    """A model that can be called.

    Attributes:
        name: Its full name.
        aliases: Other names for it.
        provider: Its provider.
        key: Where the provider's credential is from; None if there is none.
        input_price: US dollars for a million input tokens; None if unknown.
        output_price: The same for output tokens.
        is_default: Whether it is called if none is named.
    """

    name: str
    aliases: list[str]
    provider: str
    key: str | None
    input_price: float | None
    output_price: float | None
    is_default: bool


def models(*, provider: str | None = None, providers: Flag = False, json: Json = False) -> Output:
    """List known models, with prices and where their key is from.

    Args:
        provider: Only models of this provider.
        providers: List the providers instead.
    """
    from mahsm._models import models as known

    if providers:
        found = {name: _key(name) for name in known.providers() if provider in (None, name)}
        rows = [{"provider": name, "key": key} for name, key in found.items()]
        return Output(rows, _lines(("provider", "key"), [[name, key] for name, key in found.items()]), json)
    listed = _listed(known.list(provider), provider)
    rows = [
        [
            f"{each.name} (default)" if each.is_default else each.name,
            ", ".join(each.aliases),
            _dollars(each.input_price),
            _dollars(each.output_price),
            each.key,
        ]
        for each in listed
    ]
    heads = ("model", "aliases", "input", "output", "key")
    return Output([asdict(each) for each in listed], _lines(heads, rows), json)


def _listed(names: list[str], only: str | None) -> list[Model]:
    """Return the models of these names, and those of the settings."""
    from mahsm import _context
    from mahsm._model_calls import rates_of
    from mahsm._models._internal import full, provider_of

    aliases: Any = _context.config("models.aliases") or {}
    if not isinstance(aliases, dict):
        raise UsageError(f"models.aliases is {aliases!r}; expected a mapping, such as {{fast: openai/...}}.")
    default = _context.config("models.default")
    also: dict[str, list[str]] = {}
    for alias in cast("dict[str, Any]", aliases):
        also.setdefault(full(alias), []).append(alias)
    default = full(default) if isinstance(default, str) else None
    mine = {name for name in (*also, default) if name and only in (None, provider_of(name))}
    keys: dict[str, str | None] = {}
    made: list[Model] = []
    for name in sorted({*names, *mine}):
        provider = provider_of(name)
        if provider not in keys:
            keys[provider] = _key(provider)
        prices = rates_of(provider, name.partition("/")[2])
        is_default = name == default
        made.append(Model(name, sorted(also.get(name, ())), provider, keys[provider], *prices, is_default))
    return made


def _key(provider: str) -> str | None:
    """Return where the credential of a provider is from; None if there is none."""
    from mahsm._context._internal import source_of
    from mahsm._models._internal import variables_of

    return source_of(provider, variables_of(provider))


def _dollars(price: float | None) -> str:
    return "" if price is None else f"{price:g}"


def _lines(heads: tuple[str, ...], rows: list[list[str | None]]) -> list[str]:
    """Return the lines of a table; a table of rich's would take seconds for thousands of models."""
    cells = [heads, *(tuple(cell or "" for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [head in ("input", "output") for head in heads]
    return [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
