"""Files of settings: what is read, repaired and refused."""

import contextlib
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mahsm._context import document, files
from mahsm.context import create_context, get_config, get_context
from mahsm.errors import ContextError
from tests.context.conftest import write


def test_files_are_the_last_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, "config.yaml", "models: {default: file, temperature: 0.1, max_tokens: 5}\nmine: {a: 1, b: }")
    assert get_config("models.default") == "file"
    monkeypatch.setenv("MAHSM_MODEL", "environment")
    monkeypatch.setenv("MAHSM_TEMPERATURE", "0.5")
    assert (get_config("models.default"), get_config("models.temperature")) == ("environment", 0.5)
    with create_context(models={"default": "gpt-4"}, mine={"c": 3}):
        assert get_config("models") == {"default": "gpt-4", "temperature": 0.5, "max_tokens": 5}
        assert get_config("mine") == {"a": 1, "c": 3}


def test_a_variable_that_should_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAHSM_MAX_TOKENS", "many")
    with pytest.raises(ContextError, match=r"MAHSM_MAX_TOKENS='many' for 'models.max_tokens'; expected"):
        get_config("models.max_tokens")


def test_a_folder_that_is_not_there_has_no_settings(home: Path) -> None:
    assert get_config("models") is None
    assert not home.exists()


def test_changes_of_files_are_seen(home: Path) -> None:
    for number in range(50):
        write(home, "config.yaml", f"mine: {number % 10}\n")
        assert get_config("mine") == number % 10


def test_a_settled_file_is_read_once(home: Path) -> None:
    path = write(home, "config.yaml", "mine: 1\n")
    long_after = time.time_ns() + 10**9
    while time.time_ns() < long_after and files.config() is not files.config():
        threading.Event().wait(0.01)
    first = files.config()
    assert files.config() is first
    os.utime(path, ns=(1, 1))
    assert files.config() is not first


def test_reload_reports_a_broken_file(home: Path) -> None:
    context = get_context()
    context.reload()
    write(home, "credentials.yaml", "x: {y: 1")
    with pytest.raises(ContextError, match=r"credentials\.yaml: line 2, column 1: not valid"):
        context.reload()


def test_modes_that_let_others_in_are_repaired(home: Path) -> None:
    path = write(home, "credentials.yaml", "openai_api_key: sk-1\n")
    home.chmod(0o755)
    path.chmod(0o644)
    with pytest.warns(UserWarning, match="had mode 0") as warned:
        assert get_context().get_credential("openai") == "sk-1"
    assert len(warned) == 2
    assert (stat.S_IMODE(home.stat().st_mode), stat.S_IMODE(path.stat().st_mode)) == (0o700, 0o600)
    assert get_context().get_credential("openai") == "sk-1"


def test_a_mode_that_is_widened_later_is_repaired(home: Path) -> None:
    path = write(home, "config.yaml", "mine: 1\n")
    assert get_config("mine") == 1
    path.chmod(0o664)
    with pytest.warns(UserWarning, match=r"config\.yaml had mode 0664, so others had access; it is 0600 now"):
        assert get_config("mine") == 1


def test_links_are_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = write(tmp_path / "real", "config.yaml", "mine: 1\n")
    home.mkdir(mode=0o700)
    (home / "config.yaml").symlink_to(real)
    with pytest.raises(ContextError, match=r"config\.yaml is a symbolic link; expected a file"):
        get_config("mine")
    with pytest.raises(ContextError, match="is a symbolic link"):
        create_context(mine=2).save()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("MAHSM_HOME", f"{tmp_path / 'link'}/")
    with pytest.raises(ContextError, match="link is a symbolic link; expected a folder"):
        get_config("mine")
    assert real.read_text() == "mine: 1\n"


def test_a_dangling_link_is_refused_when_saving(home: Path, tmp_path: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "config.yaml").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ContextError, match="is a symbolic link"):
        create_context(mine=2).save()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", ["", "config.yaml"])
def test_files_of_others_are_refused(home: Path, name: str) -> None:
    write(home, "config.yaml", "mine: 1\n")
    os.chown(home / name, 12345, -1)
    with pytest.raises(ContextError, match=r"belongs to user 12345, and this process runs as user 0"):
        get_config("mine")


def test_what_is_no_file_is_refused_without_waiting(home: Path) -> None:
    home.mkdir(mode=0o700)
    os.mkfifo(home / "config.yaml", 0o600)
    (home / "credentials.yaml").mkdir()
    with pytest.raises(ContextError, match=r"config\.yaml is no regular file"):
        get_config("mine")
    with pytest.raises(ContextError, match=r"credentials\.yaml is no regular file"):
        files.credentials()


def test_a_home_that_is_a_file_has_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAHSM_HOME", str(write(tmp_path / "x", "file", "")))
    assert get_config("mine") is None
    with pytest.raises(ContextError, match="is not a folder; set MAHSM_HOME to one"):
        create_context(mine=1).save()


def test_a_huge_file_is_refused_before_it_is_read(home: Path) -> None:
    path = write(home, "config.yaml", "")
    os.truncate(path, 100 * 2**20)
    with pytest.raises(ContextError, match="has 104,857,600 bytes; expected at most 262,144"):
        get_config("mine")


EXPLODING = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (EXPLODING, "line 1: an anchor or alias"),
        ("a: 1\nb: *a\n", "line 2: an anchor or alias"),
        ("a: &sk-secret 1\n", "line 1: an anchor or alias"),
        ("a: !!python/object/apply:os.system [echo sk-secret]\n", "line 1: a tag"),
        ("a: !sk-secret x\n", "line 1: a tag"),
        ("a: !!binary c2s=\n", "line 1: a tag"),
        ("[" * 100_000, "nested deeper than 32 levels|not valid YAML"),
        ("{a: " * 50_000, "line 1: nested deeper than 32 levels"),
        ("".join(f"{' ' * n}a:\n" for n in range(500)), "line 33: nested deeper than 32 levels"),
        ("a: 1\na: sk-secret\n", "line 2, column 1: a key occurs twice"),
        ("x: {a: 1, a: 2}\n", "line 1, column 11: a key occurs twice"),
        ("<<: {a: sk-secret}\n", "not valid YAML"),
        ("? [sk-secret]\n: 1\n", "not valid YAML"),
        ("a: 1\n---\nb: sk-secret\n", "a second document"),
        ("- sk-secret\n", "no mapping; expected lines such as 'name: value'"),
        ("sk-secret", "no mapping"),
        ("a: 'sk-secret", "line 1, column 14: not valid YAML"),
        ("a: sk-secret: b\n", "line 1, column 13: not valid YAML"),
        ("\tsk-secret: 1\n", "line 1, column 1: not valid YAML"),
        (b"a: \xff\xfe sk-secret", "byte 3 is not UTF-8"),
        ("a: \x00sk-secret", "not valid YAML"),
        ("a: 2020-99-99\n", "cannot be represented"),
        (f"a: {'9' * 100_000}\n", "a number of 100000 digits"),
        (f"a: 0x{'f' * 100_000}\n", "a number of 100002 digits"),
        (f"a: {'1:' * 50_000}1\n", "a number of 100001 digits"),
    ],
    ids=range(25),
)
@pytest.mark.parametrize("name", ["config.yaml", "credentials.yaml"])
def test_a_hostile_file_is_one_clear_error(home: Path, name: str, text: str | bytes, message: str) -> None:
    write(home, name, text)
    with pytest.raises(ContextError, match=message) as raised:
        get_context().get_credential("openai")
    error = raised.value
    assert str(error).startswith(str(home / name))
    assert "sk-secret" not in f"{error} {error.__context__} {error.__cause__}"


@given(st.binary(max_size=60) | st.text("ab:-[]{}&*!#|>%@`\"'?,\n\t 10=<.~", max_size=40).map(str.encode))
def test_any_other_file_is_settings_or_one_error(data: bytes) -> None:
    with contextlib.suppress(ContextError):
        assert isinstance(document.parsed(data, "config.yaml"), dict)


@pytest.mark.parametrize("value", ["yes", "12345678", "[sk-secret]", "{a: {b: 7}}", "2020-01-01"])
def test_a_credential_that_is_no_string_is_an_error(home: Path, value: str) -> None:
    write(home, "credentials.yaml", f"openai_api_key: {value}\n")
    with pytest.raises(
        ContextError, match=r"credentials\.openai_api_key.* of type '\w+'; expected"
    ) as raised:
        get_context().get_credential("openai")
    assert "secret" not in str(raised.value)


def test_empty_files_and_sections_set_nothing(home: Path) -> None:
    write(home, "config.yaml", "# nothing\ncredentials:\nproviders: {openai: {api_key: sk-p}}\nmodels:\n")
    write(home, "credentials.yaml", "\ufeff")
    assert get_config("models", "none") == "none"
    assert get_context().get_credential("openai") == "sk-p"


def test_a_home_that_cannot_be_looked_at_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAHSM_HOME", f"/{'x' * 1_000}")
    with pytest.raises(
        ContextError, match=r"config\.yaml cannot be read: File name too long\. Repair it, or set"
    ):
        get_config("mine")


AS_ANOTHER_USER = """
import os, yaml
from mahsm.context import create_context, get_config
from mahsm.errors import ContextError
os.setuid(12345)
for action in (lambda: get_config("mine"), lambda: create_context(mine=1).save()):
    try:
        print(action())
    except ContextError as error:
        print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_this_user_may_not_enter_is_an_error(home: Path) -> None:
    write(home, "config.yaml", "mine: 1\n")
    done = subprocess.run([sys.executable, "-c", AS_ANOTHER_USER], capture_output=True, text=True, check=True)
    assert done.stdout.count(": Permission denied. ") == 2


def test_home_is_below_that_of_the_user_or_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAHSM_HOME")
    for name in ("a", "b"):
        monkeypatch.setenv("HOME", str(tmp_path / name))
        assert files.home() == str(tmp_path / name / ".mahsm")
    monkeypatch.setenv("MAHSM_HOME", "~/x/")
    assert files.home() == str(tmp_path / "b" / "x")
    monkeypatch.setenv("MAHSM_HOME", "./x")
    monkeypatch.chdir(tmp_path)
    assert files.home() == str(tmp_path / "x")
