"""`save()`: merged, whole or not at all, alone."""

import os
import random
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mahsm._context import writing
from mahsm.context import create_context, get_config, get_context, set_config
from mahsm.errors import ContextError
from tests.context.conftest import write


def loaded(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def saver(home: Path, name: str, times: int | str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.context.saver", name, str(times)],
        env={**os.environ, "MAHSM_HOME": str(home)},
        cwd=Path(__file__).parent.parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_save_writes_what_the_context_sets(home: Path) -> None:
    with create_context(
        models={"default": "gpt-4"}, credentials={"openai_api_key": "sk-1"}, mine={"pair": (1, 2)}
    ):
        set_config("models.temperature", 0.7)
        get_context().save()
    assert loaded(home / "config.yaml") == {
        "models": {"default": "gpt-4", "temperature": 0.7},
        "mine": {"pair": [1, 2]},
    }
    assert loaded(home / "credentials.yaml") == {"openai_api_key": "sk-1"}
    assert get_config("models.temperature") == 0.7
    assert {stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()} == {0o600}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_save_is_laid_over_what_is_there(home: Path) -> None:
    write(home, "config.yaml", "models: {default: a, temperature: 0.1}\nmine: [1]\n")
    write(home, "credentials.yaml", "other_api_key: sk-o\nopenai_api_key: sk-old\n")
    create_context(models={"default": "b"}, credentials={"openai_api_key": "sk-new"}).save()
    assert loaded(home / "config.yaml") == {"models": {"default": "b", "temperature": 0.1}, "mine": [1]}
    assert loaded(home / "credentials.yaml") == {"other_api_key": "sk-o", "openai_api_key": "sk-new"}


def test_none_removes_a_key(home: Path) -> None:
    write(home, "config.yaml", "models: {default: a, temperature: 0.1}\n")
    create_context(models={"default": None}).save()
    assert loaded(home / "config.yaml") == {"models": {"temperature": 0.1}}


def test_a_saved_credential_replaces_that_in_config_yaml(home: Path) -> None:
    write(
        home,
        "config.yaml",
        "providers: {openai: {api_key: sk-old, base: b}, x: {api_key: sk-x}}\n"
        "credentials: {openai_api_key: sk-older}\n",
    )
    create_context(providers={"openai": {"api_key": "sk-new"}}).save()
    assert get_context().get_credential("openai") == "sk-new"
    assert loaded(home / "config.yaml") == {"providers": {"openai": {"base": "b"}, "x": {"api_key": "sk-x"}}}


def test_a_context_that_sets_nothing_writes_nothing(home: Path) -> None:
    create_context().save()
    assert not home.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"mine\.a has a value of type 'object', which cannot be saved"),
        ({1, 2}, r"mine\.a has a value of type 'set'"),
        ({(1, 2): 3}, r"mine\.a has a key of type 'tuple'"),
        ("\ud800", r"config\.yaml is not written"),
        ("x" * 300_000, r"config\.yaml would have 300,\d+ bytes; expected at most 262,144"),
    ],
)
def test_a_value_that_a_file_cannot_hold_leaves_the_file(home: Path, value: Any, message: str) -> None:
    write(home, "config.yaml", "mine: {b: 1}\n")
    with pytest.raises(ContextError, match=message):
        create_context(mine={"a": value}).save()
    assert (home / "config.yaml").read_text() == "mine: {b: 1}\n"


@pytest.mark.parametrize(
    "text", ["ключ é 漢 🙂", "yes", "1:30", "0123", "2020-01-01", "a: b # c", "\t\n x ", "=", "<<"]
)
def test_strings_are_read_as_they_were_saved(text: str) -> None:
    create_context(mine={"text": text, text: 1}, credentials={"x_api_key": "12345"}).save()
    assert get_config("mine") == {"text": text, text: 1}
    assert get_context().get_credential("x") == "12345"


def test_a_broken_file_is_not_overwritten(home: Path) -> None:
    path = write(home, "config.yaml", "models: [")
    with pytest.raises(ContextError, match=r"config\.yaml: line 2, column 1: not valid YAML"):
        create_context(mine=1).save()
    assert path.read_text() == "models: ["


def test_a_lock_that_is_held_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(writing, "LONGEST_WAIT", 0.0)
    with open(write(home, ".lock", "")) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ContextError, match=r"\.lock is locked by another process for 0 s"):
            create_context(mine=1).save()
    create_context(mine=1).save()


def test_a_home_that_cannot_be_written_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAHSM_HOME", "/proc/mahsm")
    with pytest.raises(ContextError, match=r"/proc/mahsm cannot be created: .*\. Set MAHSM_HOME to a folder"):
        create_context(mine=1).save()
    monkeypatch.setenv("MAHSM_HOME", str(write(home, "file", "") / "below"))
    with pytest.raises(ContextError, match="is not a folder; set MAHSM_HOME to one"):
        create_context(mine=1).save()


def test_a_lock_that_is_a_link_is_refused(home: Path, tmp_path: Path) -> None:
    home.mkdir(mode=0o700)
    (home / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        ContextError, match=r"home cannot be written: .*\. Set MAHSM_HOME to a folder that you own"
    ):
        create_context(mine=1).save()
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_no_mapping_in_a_file_stays(home: Path) -> None:
    write(home, "config.yaml", "providers: {openai: odd}\n")
    create_context(credentials={"openai_api_key": "sk-1"}).save()
    assert loaded(home / "config.yaml") == {"providers": {"openai": "odd"}}


def test_processes_that_save_at_the_same_time_lose_nothing(home: Path) -> None:
    processes = [saver(home, name, 25) for name in ("a", "b")]
    assert [process.communicate() and process.returncode for process in processes] == [0, 0]
    saved = loaded(home / "config.yaml")["saved"]
    assert (saved["a"]["number"], saved["b"]["number"]) == (24, 24)
    assert loaded(home / "credentials.yaml") == {"a_api_key": "sk-a-24", "b_api_key": "sk-b-24"}
    assert sorted(path.name for path in home.iterdir()) == [".lock", "config.yaml", "credentials.yaml"]


def test_a_kill_during_save_leaves_the_old_or_the_new_file(home: Path) -> None:
    chance = random.Random(0)
    forks = saver(home, "a", "forked")
    assert forks.stdin is not None
    assert forks.stdout is not None
    for _ in range(50):
        forks.stdin.write("\n")
        forks.stdin.flush()
        process, told, wanted = 0, -1, chance.randrange(1, 4)
        while not process or told < wanted:
            word, *rest = forks.stdout.readline().split()
            if word == "process":
                process = int(rest[0])
            else:
                told = int(word)
        pause(chance.random() * 0.01)
        os.kill(process, signal.SIGKILL)
        while forks.stdout.readline() != "killed\n":
            pass
        saved = loaded(home / "config.yaml")["saved"]["a"]
        assert saved["number"] == saved["again"] >= told
        assert saved["padding"] == f"{saved['number']} " * 300
        key = loaded(home / "credentials.yaml")["a_api_key"]
        assert key in {f"sk-a-{saved['number']}", f"sk-a-{saved['number'] + 1}"}
        left = {path.name for path in home.iterdir()} - {".lock", "config.yaml", "credentials.yaml"}
        assert left <= {".config.yaml.new", ".credentials.yaml.new"}
    forks.communicate()
    create_context(mine=1, credentials={"x_api_key": "k"}).save()
    assert sorted(path.name for path in home.iterdir()) == [".lock", "config.yaml", "credentials.yaml"]


def pause(seconds: float) -> None:
    """Let a moment pass, so that the kill comes at another moment of a save."""
    import threading

    threading.Event().wait(seconds)
