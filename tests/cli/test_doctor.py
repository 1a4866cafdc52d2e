"""`mahsm doctor`."""

import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mahsm.cli import _checks
from tests.cli.conftest import Command
from tests.context.conftest import write


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials in the environment, and JAX on the CPU."""
    for name in list(os.environ):
        if name.endswith("_API_KEY") or name.startswith("LANGFUSE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def checks(told: Any) -> dict[str, Any]:
    return {each["name"]: each for each in told.document["checks"]}


def langfuse(told: Any) -> tuple[str, str]:
    return checks(told)["Langfuse"]["state"], checks(told)["Langfuse"]["found"]


def test_nothing_is_set_up(mahsm: Command) -> None:
    told = mahsm("doctor", "--offline", "--json")
    found = checks(told)
    assert told.code == 0
    assert told.document["ok"]
    assert found["Python"]["found"] == ".".join(map(str, sys.version_info[:3]))
    assert {"mahsm", "langgraph", "dspy", "langfuse", "jax", "equinox", "litellm"} <= found.keys()
    missing = {name: each["hint"] for name, each in found.items() if each["state"] == "missing"}
    assert missing["default model"] == missing["settings"] == "mahsm setup"
    assert missing["Langfuse"].startswith("set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY")


def test_devices_of_jax(mahsm: Command) -> None:
    pytest.importorskip("jax")
    assert "cpu" in checks(mahsm("doctor", "--offline", "--json"))["JAX devices"]["found"].lower()


def test_jax_that_does_not_start_is_broken(mahsm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jax")
    monkeypatch.setenv("JAX_PLATFORMS", "nothing")
    told = mahsm("doctor", "--offline", "--json")
    assert (told.code, told.document["ok"]) == (1, False)
    assert checks(told)["JAX devices"]["state"] == "broken"


def test_jax_that_hangs_is_broken(mahsm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "LONGEST_START", 0.001)
    (found,) = _checks.devices()
    assert (found.state, found.found) == ("broken", "no answer in 0 s")


def test_credentials_are_named_with_their_source(
    home: Path, mahsm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "hush-12345")
    write(home, "credentials.yaml", "openai_api_key: hush-6789\n")
    write(home, "config.yaml", "models: {default: gpt-4o-mini}\nproviders: {mistral: {api_key: hush-4321}}\n")
    told = mahsm("doctor", "--offline", "--json")
    found = {each["found"] for each in told.document["checks"] if each["name"] == "credential"}
    assert found == {
        "gemini_api_key, from GOOGLE_API_KEY",
        "openai_api_key, from credentials.yaml",
        "mistral_api_key, from config.yaml",
    }
    assert checks(told)["default model"] == {
        "name": "default model",
        "state": "ok",
        "found": "openai/gpt-4o-mini",
        "hint": "",
    }
    assert "hush" not in told.out


def test_a_default_model_without_its_key_is_broken(home: Path, mahsm: Command) -> None:
    write(home, "config.yaml", "models: {default: mistral/small}\n")
    told = mahsm("doctor", "--offline")
    assert told.code == 1
    assert "BROKEN" in told.out
    assert "default model: mahsm setup --provider mistral" in told.out.splitlines()


def test_files_that_others_can_read_are_broken(home: Path, mahsm: Command) -> None:
    write(home, "credentials.yaml", "openai_api_key: hush-6789\n").chmod(0o644)
    with pytest.warns(UserWarning, match="mode"):
        told = mahsm("doctor", "--offline", "--json")
    found = checks(told)["settings"]
    assert told.code == 1
    assert "credentials.yaml has mode 0644" in found["found"]
    assert found["hint"] == f"chmod -R go= {home}"


def test_a_broken_file_is_one_finding_among_the_others(home: Path, mahsm: Command) -> None:
    write(home, "config.yaml", "models: [")
    told = mahsm("doctor", "--offline", "--json")
    assert told.code == 1
    assert "config.yaml: line" in checks(told)["settings"]["found"]
    assert checks(told)["DSPy's cache"]["state"] == "ok"


def test_limits_of_the_settings(home: Path, mahsm: Command) -> None:
    write(home, "config.yaml", "limits: {openai: {rps: 5}}\n")
    found = checks(mahsm("doctor", "--offline", "--json"))["rate limits"]
    assert found["found"] == "openai: {'rps': 5}"


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "_version", lambda name: None if name in ("jax", "langgraph") else "1.0")
    found = {each.name: each for each in _checks.versions()}
    assert (found["jax"].state, found["jax"].hint) == ("missing", "pip install 'mahsm[jax]'")
    assert found["langgraph"].state == "broken"
    assert list(_checks.devices()) == []


class Langfuse(BaseHTTPRequestHandler):
    """Takes the keys pk:sk."""

    def do_GET(self) -> None:
        good = self.headers["Authorization"] == "Basic cGs6c2s="
        self.send_response(302 if self.path.startswith("/moved") else 200 if good else 401)
        self.send_header("Location", "/api/public/projects")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def host() -> Any:
    with HTTPServer(("127.0.0.1", 0), Langfuse) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("good", "path", "found"),
    [
        (True, "", ("ok", "takes the keys")),
        (False, "", ("broken", "refuses the keys")),
        (True, "/moved", ("broken", "answers with 302")),
    ],
)
def test_langfuse_is_asked(
    good: bool,
    path: str,
    found: tuple[str, str],
    host: str,
    mahsm: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk" if good else "hush-wrong")
    monkeypatch.setenv("LANGFUSE_HOST", f"{host}{path}/")
    told = mahsm("doctor", "--json")
    assert langfuse(told)[0] == found[0]
    assert found[1] in langfuse(told)[1]
    assert told.code == (not good or bool(path))
    assert "hush" not in told.out


@pytest.mark.parametrize(
    ("host", "message"), [("http://127.0.0.1:9", "does not answer"), ("langfuse.mine", "is no address")]
)
def test_a_langfuse_that_cannot_be_reached(
    host: str, message: str, mahsm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PUBLIC_KEY": "pk", "SECRET_KEY": "sk", "BASE_URL": host}.items():
        monkeypatch.setenv(f"LANGFUSE_{name}", value)
    told = mahsm("doctor", "--json")
    assert langfuse(told)[0] == "broken"
    assert message in langfuse(told)[1]
    assert langfuse(mahsm("doctor", "--offline", "--json")) == ("ok", f"{host}, not asked")


def test_one_of_two_keys_is_broken(mahsm: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk")
    told = mahsm("doctor", "--offline", "--json")
    assert langfuse(told) == ("broken", "LANGFUSE_SECRET_KEY is missing: nothing is traced")


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPY_CACHEDIR", "/proc/nothing/here")
    monkeypatch.setattr(os, "access", lambda *_: False)
    (found,) = _checks.cache()
    assert (found.state, found.hint) == ("broken", "set DSPY_CACHEDIR")
