"""`mahsm models` and `mahsm test`."""

from pathlib import Path
from typing import Any

import pytest

from mahsm.testing import ModelServer, Reply
from tests.cli.conftest import Command, process
from tests.context.conftest import write


def test_models_of_a_provider_with_prices(mahsm: Command) -> None:
    told = mahsm("models", "--provider", "openai", "--json")
    assert {each["provider"] for each in told.document} == {"openai"}
    (mini,) = [each for each in told.document if each["name"] == "openai/gpt-4o-mini"]
    assert mini == {
        "name": "openai/gpt-4o-mini",
        "aliases": [],
        "provider": "openai",
        "key": None,
        "input_price": 0.15,
        "output_price": 0.6,
        "is_default": False,
    }


def test_aliases_the_default_and_keys_are_those_of_the_settings(
    home: Path, mahsm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "hush-12345")
    write(
        home,
        "config.yaml",
        "models: {default: openai/mine, aliases: {fast: gpt-4o-mini, mini: gpt-4o-mini}}\n",
    )
    found = {each["name"]: each for each in mahsm("models", "--provider", "openai", "--json").document}
    assert found["openai/gpt-4o-mini"]["aliases"] == ["fast", "mini"]
    assert found["openai/mine"]["is_default"]
    assert found["openai/mine"]["input_price"] is None
    assert found["openai/mine"]["key"] == "OPENAI_API_KEY"
    assert not [name for name in mahsm("models", "--provider", "anthropic").out.split() if "openai" in name]


def test_a_table_has_a_model_in_a_line(mahsm: Command) -> None:
    lines = mahsm("models", "--provider", "openai").out.splitlines()
    assert lines[0].split() == ["model", "aliases", "input", "output", "key"]
    assert [line.split() for line in lines if line.startswith("openai/gpt-4o-mini ")] == [
        ["openai/gpt-4o-mini", "0.15", "0.6"]
    ]


def test_providers(mahsm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "hush-12345")
    found = {each["provider"]: each["key"] for each in mahsm("models", "--providers", "--json").document}
    assert (found["gemini"], found["anthropic"]) == ("GOOGLE_API_KEY", None)
    assert "GOOGLE_API_KEY" in mahsm("models", "--providers", "--provider", "gemini").out


def test_an_unknown_provider_is_named(mahsm: Command) -> None:
    told = mahsm("models", "--provider", "opnai")
    assert told.code == 2
    assert "unknown provider 'opnai'" in told.error
    assert "Did you mean 'openai'" in told.error


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    with ModelServer(lambda call: f"You said: {call.text}") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "hush-12345")
        monkeypatch.setenv("MAHSM_API_BASE", server.base_url)
        yield server


def test_one_call_of_a_model(server: ModelServer, mahsm: Command) -> None:
    told = mahsm("test", "Hello", "--model", "gpt-4o-mini", "--json")
    document = told.document
    figures = {name: document.pop(name) for name in ("seconds", "cost", "input_tokens", "output_tokens")}
    assert all(figure > 0 for figure in figures.values())
    assert document == {"model": "openai/gpt-4o-mini", "text": "You said: Hello"}
    assert told.err == ""


def test_each_call_is_made(server: ModelServer, mahsm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAHSM_MODEL", "openai/homemade")
    for _ in range(2):
        told = mahsm("test")
        assert told.out.startswith("You said: Reply with the word OK.\nopenai/homemade: ")
        assert told.out.endswith(" tokens, unknown cost\n")
    assert len(server.calls) == 2


def test_without_a_default_model(mahsm: Command) -> None:
    told = mahsm("test")
    assert told.code == 2
    assert "no model is given, and the context has no default" in told.error


def test_without_a_key(mahsm: Command) -> None:
    told = mahsm("test", "--model", "mistral/small")
    assert told.code == 2
    assert "needs a credential of 'mistral'" in told.error


def test_a_call_that_fails_is_made_once(home: Path) -> None:
    with ModelServer(Reply.failed(500)) as server:
        write(home, "config.yaml", f"models: {{default: hosted_vllm/mine, api_base: {server.base_url!r}}}\n")
        told = process("test", "--json")
    assert (told.code, told.out) == (1, "")
    assert "'hosted_vllm/mine' failed: " in told.error
    assert len(server.calls) == 1


def test_aliases_that_are_no_mapping_are_named(home: Path, mahsm: Command) -> None:
    write(home, "config.yaml", "models: {aliases: 4}\n")
    told = mahsm("models")
    assert (told.code, "models.aliases is 4; expected a mapping" in told.error) == (2, True)
