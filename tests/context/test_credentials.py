"""Credentials: which one wins, and when it is looked up, against a provider on loopback."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mahsm._context import credential, require_credential, where
from mahsm.context import Secret, create_context, get_config, get_context, with_context
from mahsm.errors import ContextError, CredentialError
from mahsm.testing import ModelServer
from tests.context.conftest import write


def key_sent(server: ModelServer) -> str:
    """Call the provider with the credential of the current context, and return what arrived."""
    server.lm(api_key=get_context().get_credential("openai", "OPENAI_API_KEY"))("hello")
    return server.calls[-1].key


def test_the_first_place_that_has_a_credential_wins(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer("hi") as server:
        write(home, "credentials.yaml", "openai_api_key: sk-credentials\n")
        assert key_sent(server) == "sk-credentials"
        write(home, "config.yaml", "credentials: {openai_api_key: sk-config}\n")
        assert key_sent(server) == "sk-config"
        monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
        assert key_sent(server) == "sk-environment"
        with create_context(credentials={"openai_api_key": "sk-temp-key"}):
            assert key_sent(server) == "sk-temp-key"
        assert key_sent(server) == "sk-environment"


def test_rotation_needs_no_restart(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer("hi") as server, with_context():
        for number in range(3):
            rotated = f"open({str(home / 'credentials.yaml')!r}, 'w').write('openai_api_key: sk-{number}')"
            write(home, "credentials.yaml", "")
            subprocess.run([sys.executable, "-c", rotated], check=True)
            assert key_sent(server) == f"sk-{number}"
        monkeypatch.setenv("OPENAI_API_KEY", "sk-4")
        assert key_sent(server) == "sk-4"
        get_context().set_config("credentials.openai_api_key", "sk-5")
        assert key_sent(server) == "sk-5"


def test_both_names_of_a_credential(home: Path) -> None:
    write(home, "config.yaml", "providers: {openai: {api_key: sk-file}}\n")
    assert credential("openai") == "sk-file"
    with with_context(credentials={"openai_api_key": "sk-outer"}):
        with with_context(providers={"openai": {"api_key": "sk-inner"}}):
            assert credential("openai") == "sk-inner"
        assert credential("openai") == "sk-outer"


@pytest.mark.parametrize("held", [None, "", Secret("")])
def test_a_context_without_a_credential_hides_the_others(held: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-someone-else")
    with with_context(credentials={"openai_api_key": held}):
        assert credential("openai") is None
        with pytest.raises(CredentialError, match=r"context sets credentials\.openai_api_key to None or an"):
            require_credential("openai")


def test_empty_variables_count_as_not_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "credentials.yaml", "openai_api_key: ' sk-file '\n")
    monkeypatch.setenv("OPENAI_API_KEY", " ")
    assert credential("openai") == "sk-file"
    monkeypatch.setenv("SECOND", "sk-2\n")
    assert get_context().get_credential("openai", ("OPENAI_API_KEY", "SECOND")) == "sk-2"
    assert get_context().get_credential("openai", "") == "sk-file"


def test_a_missing_credential_is_an_error_that_says_where_to_set_it(home: Path) -> None:
    expected = (
        "no credential for provider 'together-ai'. Set TOGETHER_AI_API_KEY, or run "
        f"'mahsm configure set credentials.together_ai_api_key', which writes it to {home}/credentials.yaml."
    )
    assert get_context().get_credential("together-ai") is None
    with pytest.raises(CredentialError) as raised:
        require_credential("together-ai")
    assert str(raised.value) == expected
    assert where("google", ("GEMINI_API_KEY", "GOOGLE_API_KEY")).startswith("Set GEMINI_API_KEY or GOOGLE_")
    with with_context(credentials={"together_ai_api_key": "sk-t"}):
        assert require_credential("together-ai") == "sk-t"


@pytest.mark.parametrize("provider", ["", " ", "a.b", None])
def test_a_provider_is_a_name(provider: Any) -> None:
    with pytest.raises(ContextError, match="expected a name, such as 'openai'"):
        credential(provider)


def test_get_config_gives_the_holder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "credentials.yaml", "x_api_key: sk-x\n")
    write(home, "config.yaml", "credentials: {y_api_key: sk-y}\n")
    assert get_config("credentials") == {"x_api_key": Secret("sk-x"), "y_api_key": Secret("sk-y")}
    assert get_config("credentials.x_api_key").get_secret_value() == "sk-x"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-e")
    assert get_config("credentials.openai_api_key") == Secret("sk-e")


KEYRING = """
import keyring, keyring.backend, keyring.errors, sys
from mahsm._context import credential
class Memory(keyring.backend.KeyringBackend):
    priority = 1
    def get_password(self, service, username):
        if username == "locked_api_key":
            raise keyring.errors.KeyringLocked("sk-secret")
        return {("mahsm", "openai_api_key"): "sk-ring"}.get((service, username))
    def set_password(self, *arguments): ...
    def delete_password(self, *arguments): ...
keyring.set_keyring(Memory())
print(credential("openai"), credential("other"))
print(credential("locked"))
import keyring.backends.fail
keyring.set_keyring(keyring.backends.fail.Keyring())
print(credential("openai"))
"""


def test_the_systems_keyring_is_the_last_place() -> None:
    pytest.importorskip("keyring", reason="no keyring; it is in the dev dependencies")
    done = subprocess.run([sys.executable, "-c", KEYRING], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["sk-ring None", "None", "None"]
    assert (
        "the system's keyring cannot be read: KeyringLocked. Unlock it, or set LOCKED_API_KEY" in done.stderr
    )
    assert "sk-secret" not in done.stderr


def test_a_process_without_keyring_does_not_need_it(tmp_path: Path) -> None:
    # As if it were not installed.
    (tmp_path / "keyring.py").write_text("raise ModuleNotFoundError('keyring')")
    code = "from mahsm._context import credential; print(credential('openai'))"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "None\n"
