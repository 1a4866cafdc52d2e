"""`mahsm setup`, by options and at a terminal, against a provider on loopback."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mahsm import models
from mahsm.cli._setup import SUGGESTED
from mahsm.context import get_config, get_context
from mahsm.testing import Call, ModelServer, Reply
from tests.cli.conftest import Command, Terminal

MODEL = "openai/gpt-4o-mini"
KEY = "hush-12345-67890"
FILES = ["config.yaml", "credentials.yaml"]


def answered(call: Call) -> str | Reply:
    return "OK" if call.key == KEY else Reply.failed(401)


@pytest.fixture
def provider() -> Iterator[ModelServer]:
    with ModelServer(answered) as server:
        yield server


def files_in(home: Path) -> list[str]:
    return (
        sorted(path.name for path in home.iterdir() if not path.name.startswith(".")) if home.exists() else []
    )


def test_by_options_and_a_pipe(home: Path, provider: ModelServer, mahsm: Command) -> None:
    options = ("--provider", "openai", "--model", "gpt-4o-mini", "--api-base", provider.base_url)
    told = mahsm("setup", *options, "--json", typed=f"{KEY}\n")
    assert told.code == 0
    (done,) = told.document["providers"]
    assert (told.document["default"], done["provider"], done["model"]) == (MODEL, "openai", MODEL)
    assert done["tried"]["tokens"] > 0
    assert done["files"] == [f"{home}/config.yaml", f"{home}/credentials.yaml"]
    assert KEY not in told.out + told.err
    assert [call.key for call in provider.calls] == [KEY]
    assert get_config("models.default") == MODEL
    assert get_config("providers.openai.api_base") == provider.base_url
    assert get_context().get_credential("openai") == KEY


def test_a_call_that_fails_writes_nothing(home: Path, provider: ModelServer, mahsm: Command) -> None:
    told = mahsm("setup", "--model", MODEL, "--api-base", provider.base_url, typed="hush-wrong-key")
    assert (told.code, told.out) == (1, "")
    assert f"'{MODEL}' failed: " in told.error
    assert "401" in told.error
    assert "Nothing was written; --no-try writes without a call." in told.error
    assert "hush" not in told.error
    assert files_in(home) == []


def test_without_a_call(home: Path, provider: ModelServer, mahsm: Command) -> None:
    told = mahsm("setup", "--model", MODEL, "--api-base", provider.base_url, "--no-try", typed=KEY)
    assert told.out == f"openai: {MODEL}, in {home}/config.yaml and {home}/credentials.yaml\n"
    assert provider.calls == []


def test_the_present_key_is_kept(home: Path, provider: ModelServer, mahsm: Command) -> None:
    mahsm("configure", "set", "credentials.openai_api_key", typed=KEY)
    told = mahsm("setup", "--model", MODEL, "--api-base", provider.base_url)
    assert told.code == 0
    assert [call.key for call in provider.calls] == [KEY]


def test_what_wins_over_the_files_is_named(
    home: Path, mahsm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "hush-of-the-environment")
    monkeypatch.setenv("MAHSM_MODEL", "openai/other")
    monkeypatch.setenv("MAHSM_API_BASE", "http://127.0.0.1:9")
    told = mahsm("setup", "--model", MODEL, "--api-base", "http://127.0.0.1:10", "--no-try", typed=KEY)
    assert told.err.splitlines() == [
        "note: OPENAI_API_KEY is set, and wins over the file",
        "note: MAHSM_MODEL is set, and wins over the file",
        "note: models.api_base is http://127.0.0.1:9, and wins over that of openai",
    ]


def test_a_server_of_your_own_needs_no_key(home: Path, mahsm: Command) -> None:
    with ModelServer("OK") as server:
        told = mahsm("setup", "--model", "hosted_vllm/mine", "--api-base", server.base_url)
    assert told.code == 0
    assert files_in(home) == ["config.yaml"]


@pytest.mark.parametrize(
    ("options", "typed", "message"),
    [
        ((), "", "--provider is missing, and there is no terminal to ask at; pass --provider."),
        (("--provider", "openai"), "", "--model is missing"),
        (("--model", MODEL), "", "API key of openai: no key; type it at a terminal, or pipe it in."),
        (("--model", MODEL), "hush hush", "2 words; expected a key without spaces"),
        (("--provider", "opnai", "--model", MODEL), KEY, "unknown provider 'opnai'"),
        (("--provider", "anthropic", "--model", MODEL), KEY, "is not of --provider 'anthropic'"),
        (("--model", "homemade"), KEY, "'homemade' has no provider"),
    ],
)
def test_what_is_wrong_or_missing_is_named(
    options: Any, typed: str, message: str, home: Path, mahsm: Command
) -> None:
    told = mahsm("setup", *options, typed=typed)
    assert (told.code, told.out) == (2, "")
    assert message in told.error
    assert "hush" not in told.error
    assert files_in(home) == []


@pytest.mark.parametrize("provider", SUGGESTED)
def test_suggested_models_are_known(provider: str) -> None:
    assert SUGGESTED[provider] in models.list(provider)


# At a terminal.

Start = Callable[..., Terminal]


def test_what_is_missing_is_asked_for(home: Path, provider: ModelServer, terminal: Start) -> None:
    child = terminal("setup", "--api-base", provider.base_url)
    child.expect("Provider [openai]: ")
    child.type("")
    child.expect(f"Model [{SUGGESTED['openai']}]: ")
    child.type("gpt-4o-mini")
    child.expect("API key of openai: ")
    child.type(KEY)
    child.expect(f"{MODEL} answered in ")
    child.expect("Another provider? (yes/no) [no]: ")
    child.type("")
    code, told = child.end()
    assert code == 0
    assert f"openai: {MODEL}, in {home}/config.yaml" in told
    assert "hush" not in told
    assert get_config("models.default") == MODEL
    assert get_context().get_credential("openai") == KEY


def test_several_providers(home: Path, terminal: Start) -> None:
    child = terminal("setup", "--no-try")
    for provider, model, more in (("openai", "gpt-4o-mini", "yes"), ("anthropic", "claude-x", "no")):
        child.expect("Provider [openai]: ")
        child.type(provider)
        child.expect("Model")
        child.type(model)
        child.expect(f"API key of {provider}: ")
        child.type(f"hush-of-{provider}")
        child.expect("Another provider?")
        child.type(more)
    code, _ = child.end()
    assert code == 0
    assert get_config("models.default") == MODEL
    assert [get_context().get_credential(name) for name in ("openai", "anthropic")] == [
        "hush-of-openai",
        "hush-of-anthropic",
    ]


@pytest.mark.parametrize(("answer", "expected"), [("no", (1, [])), ("yes", (0, FILES))])
def test_settings_that_fail_are_written_if_the_user_agrees(
    answer: str, expected: Any, home: Path, provider: ModelServer, terminal: Start
) -> None:
    child = terminal("setup", "--provider", "openai", "--model", MODEL, "--api-base", provider.base_url)
    child.expect("API key of openai: ")
    child.type("hush-wrong-key")
    child.expect("Write the settings anyway? (yes/no) [no]: ")
    child.type(answer)
    code, told = child.end()
    assert "failed: " in told
    assert "hush" not in told
    assert (code, files_in(home)) == expected


@pytest.mark.parametrize("question", ["Provider", "API key of openai"])
def test_ctrl_c_writes_nothing(question: str, home: Path, terminal: Start) -> None:
    child = terminal("setup", *(("--model", MODEL) if question != "Provider" else ()))
    child.expect(question)
    child.press("c")
    code, told = child.end()
    assert code == 130
    assert "mahsm setup: interrupted" in told
    assert "Traceback" not in told
    assert files_in(home) == []


@pytest.mark.parametrize("question", ["Provider", "API key of openai"])
def test_the_end_of_the_input_is_named(question: str, home: Path, terminal: Start) -> None:
    child = terminal("setup", *(("--model", MODEL) if question != "Provider" else ()))
    child.expect(f"{question}")
    child.press("d")
    code, told = child.end()
    assert code == 2
    assert f"\nmahsm setup: the input ended at the question '{question}'; expected an answer.\n" in told


def test_ctrl_d_is_no_further_provider(home: Path, terminal: Start) -> None:
    child = terminal("setup", "--no-try", "--model", MODEL)
    child.expect("API key of openai: ")
    child.type("hush-key")
    child.expect("Another provider? (yes/no) [no]: ")
    child.press("d")
    code, told = child.end()
    assert code == 0
    assert f"openai: {MODEL}, in" in told
