"""`mahsm setup`: a provider, its key and the default model."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mahsm.cli._asking import agreed, asked, at_terminal, key_of
from mahsm.cli._outcome import Failed, Flag, Json, Output, UsageError

SUGGESTED = {
    "anthropic": "anthropic/claude-haiku-4-5",
    "gemini": "gemini/gemini-2.5-flash",
    "openai": "openai/gpt-4o-mini",
}
"""Small models, which are suggested at a terminal."""


@dataclass(frozen=True)
class Chosen:
    """What is to be set up.

    Attributes:
        provider: Such as "openai".
        model: The full name of a model of the provider.
        key: The new credential; None to keep the present one, or to have none.
        api_base: Where the provider's models are served; None for its own address.
    """

    provider: str
    model: str
    key: str | None
    api_base: str | None


def setup(
    *,
    provider: str | None = None,
    model: str | None = None,
    api_base: str | None = None,
    no_try: Flag = False,
    json: Json = False,
) -> Output:
    """Set up a provider: its key, the default model, and one call to try them.

    Args:
        provider: Such as openai.
        model: The default model, such as openai/gpt-4o-mini.
        api_base: Where the provider's models are served, such as http://127.0.0.1:8000/v1.
        no_try: Write the files without a call.
    """
    done: list[dict[str, Any]] = []
    lines: list[str] = []
    first = True
    while first or (provider is None and at_terminal() and agreed("Another provider?")):
        chosen = _chosen(provider, model if first else None, api_base if first else None)
        answer = None if no_try else _tried(chosen)
        files = _written(chosen, default=first)
        done.append({"provider": chosen.provider, "model": chosen.model, "tried": answer, "files": files})
        lines.append(f"{chosen.provider}: {chosen.model}, in {' and '.join(files)}")
        first = False
    return Output({"default": done[0]["model"], "providers": done}, lines, json)


def _chosen(provider: str | None, model: str | None, api_base: str | None) -> Chosen:
    """Return what the options say, and for the rest what the user answers."""
    from mahsm._models._internal import check_provider, full, provider_of

    name = full(model) if model else None
    if provider is None:
        provider = provider_of(name) if name else _answer("provider", "Provider", "openai")
    check_provider(provider, f"{provider}/...")
    if name is None:
        given = _answer("model", "Model", SUGGESTED.get(provider))
        name = full(given if "/" in given else f"{provider}/{given}")
    if provider_of(name) != provider:
        raise UsageError(f"--model {name!r} is not of --provider {provider!r}; expected '{provider}/...'.")
    return Chosen(provider, name, _key(provider), api_base)


def _answer(option: str, question: str, default: str | None) -> str:
    if not at_terminal():
        raise UsageError(f"--{option} is missing, and there is no terminal to ask at; pass --{option}.")
    return asked(question, default)


def _key(provider: str) -> str | None:
    """Return the credential that the user gives; None to keep the present one, or for none."""
    from mahsm._context._internal import source_of
    from mahsm._models._internal import needs_key, variables_of

    source = source_of(provider, variables_of(provider))
    optional = source is not None or not needs_key(provider)
    hint = f" (Enter keeps that of {source})" if source else " (Enter for none)" if optional else ""
    return key_of(f"API key of {provider}{hint}", optional=optional)


def _tried(chosen: Chosen) -> dict[str, Any] | None:
    """Call the model once; return how it answered, or None if the user keeps settings that failed.

    Raises:
        Failed: if it fails, and the user does not keep them.
    """
    from mahsm.cli._test import call_once

    options = {"api_key": chosen.key, "api_base": chosen.api_base}
    try:
        call = call_once(chosen.model, **{name: value for name, value in options.items() if value})
    except Failed as error:
        if not at_terminal():
            raise Failed(
                f"{str(error).rstrip('.')}. Nothing was written; --no-try writes without a call."
            ) from error
        print(error, file=sys.stderr)  # noqa: T201
        if agreed("Write the settings anyway?"):
            return None
        raise Failed(f"{chosen.model} could not be called; nothing was written.") from error
    print(f"{call.model} answered in {call.seconds:.2f} s", file=sys.stderr)  # noqa: T201
    return {"seconds": call.seconds, "tokens": call.input_tokens + call.output_tokens, "cost": call.cost}


def _written(chosen: Chosen, *, default: bool) -> list[str]:
    """Write the settings; return the paths of the files."""
    from mahsm._context._internal import field_of, files, here, save

    settings: dict[str, Any] = {"models": {"default": chosen.model}} if default else {}
    if chosen.api_base:
        settings["providers"] = {chosen.provider: {"api_base": chosen.api_base}}
    if chosen.key is not None:
        settings["credentials"] = {field_of(chosen.provider): chosen.key}
    save(here.NOTHING.child(settings))
    for note in _notes(chosen, default=default):
        print(f"note: {note}", file=sys.stderr)  # noqa: T201
    into = [files.CONFIG] if default or chosen.api_base else []
    return [files.path_to(name) for name in (*into, *([files.CREDENTIALS] if chosen.key else []))]


def _notes(chosen: Chosen, *, default: bool) -> Iterator[str]:
    """Yield what wins over the settings that were written."""
    from mahsm import _context
    from mahsm._context._internal import files, source_of
    from mahsm._models._internal import variables_of

    source = source_of(chosen.provider, variables_of(chosen.provider))
    if chosen.key is not None and source != files.CREDENTIALS:
        yield f"{source} is set, and wins over the file"
    if default and _context.config("models.default") != chosen.model:
        yield "MAHSM_MODEL is set, and wins over the file"
    base: Any = _context.config("models.api_base")
    if chosen.api_base and base not in (None, chosen.api_base):
        yield f"models.api_base is {base}, and wins over that of {chosen.provider}"
