"""`mahsm configure`, and `migrate`, as a user runs them."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mahsm import cli
from mahsm.context import get_config, get_context, migrate
from mahsm.errors import ContextError
from tests.cli.conftest import Terminal
from tests.context.conftest import write


class Shell:
    """Runs the command; each line of its output is an entry."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capsys, self.monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: str, typed: str = "", status: int = 0) -> list[str]:
        self.monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert cli.main(arguments) == status
        shown = self.capsys.readouterr()
        return (shown.err if status else shown.out).splitlines()


@pytest.fixture
def mahsm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capsys, monkeypatch)


def test_set_get_and_list(home: Path, mahsm: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mahsm("configure", "path") == [str(home)]
    assert mahsm("configure", "list") == []
    assert mahsm("configure", "set", "models.default", "openai/x") == [
        f"set models.default in {home}/config.yaml"
    ]
    mahsm("configure", "set", "models.temperature", "0.7")
    mahsm("configure", "set", "mine", "{a: [1, true, x], b: null, c: text}")
    assert get_config("models") == {"default": "openai/x", "temperature": 0.7}
    assert mahsm("configure", "get", "models.temperature") == ["0.7"]
    assert mahsm("configure", "get", "mine") == ["{a: [1, true, x], c: text}"]
    monkeypatch.setenv("MAHSM_MODEL", "openai/y")
    assert mahsm("configure", "list") == [
        "mine.a = [1, true, x]  (config.yaml)",
        "mine.c = text  (config.yaml)",
        "models.default = openai/y  (MAHSM_MODEL)",
        "models.temperature = 0.7  (config.yaml)",
    ]
    assert mahsm("configure", "set", "models.temperature", "null")[0].startswith(
        "removed models.temperature in"
    )
    assert get_config("models.temperature") is None


def test_credentials_are_read_from_stdin_and_hidden(home: Path, mahsm: Shell) -> None:
    told = mahsm("configure", "set", "credentials.openai_api_key", typed="hush-12345\n")
    assert told == [f"set credentials.openai_api_key in {home}/credentials.yaml"]
    assert get_context().get_credential("openai") == "hush-12345"
    mahsm("configure", "set", "providers.x.api_key", typed="hush-6789")
    assert mahsm("configure", "get", "credentials.openai_api_key") == ["***"]
    assert mahsm("configure", "get", "credentials") == ["{openai_api_key: ***, x_api_key: ***}"]
    assert mahsm("configure", "list") == [
        "credentials.openai_api_key = ***  (credentials.yaml)",
        "credentials.x_api_key = ***  (credentials.yaml)",
    ]
    mahsm("configure", "set", "credentials.openai_api_key", "null")
    assert get_context().get_credential("openai") is None


@pytest.mark.parametrize(
    ("arguments", "typed", "message"),
    [
        (("set", "credentials.x_api_key", "hush-1"), "", "takes no value as an argument, which other users"),
        (("set", "credentials.x_api_key"), "", "no key; type it at a terminal, or pipe it in"),
        (("set", "credentials.x_api_key"), "hush-1 hush-2", "2 words; expected a key without spaces"),
        (
            ("set", "models.default"),
            "",
            "models.default has no value; run 'mahsm configure set models.default VALUE'",
        ),
        (("set", "models", "3"), "", "models holds several settings; set one of them"),
        (("set", "mine", "[1"), "", "mine: the value is not valid YAML; quote it"),
        (("set", "a..b", "1"), "", "key 'a..b'; expected a dotted name"),
        (("set", "credentials"), "hush-1", "expected one such as 'credentials.openai_api_key'"),
        (("set", "credentials.openai"), "hush-1", "expected one such as 'credentials.openai_api_key'"),
        (
            ("set", "credentials.openai_api_key=hush-1"),
            "",
            "run 'mahsm configure set credentials.openai_api_key'",
        ),
        (("set", "openai_api_key", "hush-1"), "", "and shown; expected 'credentials.openai_api_key'"),
        (("set", "providers", "{openai: {api_key: hush-1}}"), "", "takes no value as an argument"),
        (("set", "models.default", ""), "", "models.default has no value"),
        (("get", "nothing"), "", "nothing is not set; run 'mahsm configure set nothing'"),
    ],
)
def test_mistakes_are_one_line(mahsm: Shell, arguments: Any, typed: str, message: str) -> None:
    (line,) = mahsm("configure", *arguments, typed=typed, status=2)
    assert line.startswith(f"mahsm configure {arguments[0]}: ")
    assert message in line
    assert "hush" not in line


def test_numbers_that_json_lacks_are_null(mahsm: Shell) -> None:
    mahsm("configure", "set", "mine", ".nan")
    assert mahsm("configure", "get", "mine", "--json") == ['{"key": "mine", "value": null}']


def test_a_variable_that_wins_is_named(
    mahsm: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "hush-12345")
    monkeypatch.setattr(sys, "stdin", io.StringIO("hush-6789"))
    assert cli.main(["configure", "set", "credentials.openai_api_key"]) == 0
    assert capsys.readouterr().err == "note: OPENAI_API_KEY is set, and wins over the file\n"


def test_a_terminal_does_not_show_what_is_typed(terminal: Callable[..., Terminal]) -> None:
    child = terminal("configure", "set", "credentials.openai_api_key")
    child.expect("credentials.openai_api_key: ")
    child.type("hush-12345")
    code, told = child.end()
    assert code == 0
    assert "credentials.yaml" in told
    assert "hush" not in told
    assert get_context().get_credential("openai") == "hush-12345"


def test_json_hides_credentials(home: Path, mahsm: Shell) -> None:
    mahsm("configure", "set", "credentials.openai_api_key", typed="hush-12345\n")
    mahsm("configure", "set", "mine", "{a: [1, true, null], b: text}")
    found = {
        name: json.loads(mahsm("configure", *name.split(), "--json")[0])
        for name in ("get credentials", "get mine", "list", "path", "show credentials")
    }
    assert found["get credentials"] == {"key": "credentials", "value": {"openai_api_key": "***"}}
    assert found["get mine"]["value"] == {"a": [1, True, None], "b": "text"}
    assert found["path"] == {"path": str(home)}
    assert found["show credentials"] == found["get credentials"]
    assert {"key": "mine.b", "value": "text", "source": "config.yaml"} in found["list"]
    assert "hush" not in str(found)


def test_set_and_migrate_as_json(home: Path, tmp_path: Path, mahsm: Shell) -> None:
    (line,) = mahsm("configure", "set", "models.default", "openai/x", "--json")
    expected = {"key": "models.default", "set": True, "file": f"{home}/config.yaml", "wins": None}
    assert json.loads(line) == expected
    write(tmp_path / "ember", "config.yaml", "providers: {openai: {api_key: hush-1}}\n")
    (line,) = mahsm("configure", "migrate", str(tmp_path / "ember"), "--json")
    assert json.loads(line)["added"] == ["credentials.openai_api_key"]


def test_migrate_copies_what_is_not_there_yet(home: Path, tmp_path: Path) -> None:
    ember = tmp_path / "ember"
    old = {
        "openai": {"api_key": "sk-old", "created_at": "x"},
        "cohere": "sk-c",
        "X_API_KEY": "sk-x",
        "bad": {},
    }
    write(ember, "credentials", json.dumps(old, indent="\t"))
    write(ember, "config.json", '{"models": {"default": "gpt-4", "temperature": 0.5}}')
    write(
        ember,
        "config.yaml",
        "models: {default: gpt-5}\n"
        "providers: {openai: {api_key: sk-new, base: b}, google: {api_key: '${GOOGLE_API_KEY}'}}\n",
    )
    write(home, "config.yaml", "models: {temperature: 0.1}\ncredentials: {cohere_api_key: sk-mine}\n")
    before = {path.name: path.read_bytes() for path in ember.iterdir()}
    assert migrate(str(ember)) == [
        "credentials.openai_api_key",
        "credentials.x_api_key",
        "models.default",
        "providers.openai.base",
    ]
    assert get_config("models") == {"default": "gpt-5", "temperature": 0.1}
    keys = {name: get_context().get_credential(name) for name in ("openai", "cohere", "x", "google", "bad")}
    assert keys == {"openai": "sk-new", "cohere": "sk-mine", "x": "sk-x", "google": None, "bad": None}
    assert migrate(str(ember)) == []
    assert {path.name: path.read_bytes() for path in ember.iterdir()} == before


def test_migrate_as_a_command(home: Path, tmp_path: Path, mahsm: Shell) -> None:
    ember = tmp_path / "ember"
    (line,) = mahsm("configure", "migrate", str(ember), status=2)
    expected = "expected a folder with config.yaml or credentials."
    assert line == f"mahsm configure migrate: {ember} does not exist; {expected}"
    write(ember, "config.yaml", "providers: {openai: {api_key: hush-1}}\n")
    assert mahsm("configure", "migrate", str(ember)) == [
        "added credentials.openai_api_key",
        f"1 added to {home}; {ember} is unchanged",
    ]


@pytest.mark.parametrize("text", ["{broken", '{"a": 1', "[" * 100_000, "{" * 100_000])
def test_a_broken_source_is_one_error(home: Path, tmp_path: Path, text: str) -> None:
    write(tmp_path / "ember", "credentials", text)
    with pytest.raises(ContextError, match=r"ember/credentials: .*Repair or remove the file"):
        migrate(str(tmp_path / "ember"))
    assert not home.exists()


@pytest.mark.parametrize(
    ("key", "note"),
    [
        ("models.defalt", "note: models.defalt is no setting of mahsm. Did you mean models.default?\n"),
        ("modls.default", "note: modls.default is no setting of mahsm. Did you mean models.default?\n"),
        ("models.default", ""),
        ("models.top_p", ""),
        ("mine.speed", ""),
    ],
)
def test_a_key_near_a_known_one_is_set_with_a_note(
    home: Path, key: str, note: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["configure", "set", key, "1"]) == 0
    assert capsys.readouterr().err == note
