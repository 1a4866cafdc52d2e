"""The command as a process: exit codes, `--json`, errors on one line, a quick start."""

import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import mahsm as package
from mahsm.cli._commands import COMMANDS, GROUPS
from tests.cli.conftest import PROCESS, Command, process


def test_it_is_python_m_mahsm_and_a_script() -> None:
    there = process("version")
    assert (there.code, there.out, there.err) == (0, f"mahsm {package.__version__}\n", "")
    script = Path(sys.executable).with_name("mahsm")
    assert subprocess.run([script, "version"], check=True, capture_output=True, text=True).stdout == there.out


def test_help_loads_no_large_package() -> None:
    heavy = ("langgraph", "langchain_core", "dspy", "jax", "langfuse", "numpy", "litellm", "yaml", "pydantic")
    code = (
        "import sys\nfrom mahsm.cli import main\nmain(['--help'])\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stderr == "[]\n"
    assert all(name.split()[0] in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_and_json(command: str, mahsm: Command) -> None:
    told = mahsm(*command.split(), "--help")
    assert told.code == 0
    assert f"Usage: mahsm {command} " in told.out
    assert "--json" in told.out


@pytest.mark.parametrize("group", GROUPS)
def test_groups_of_commands_have_help(group: str, mahsm: Command) -> None:
    assert f"Usage: mahsm {group} COMMAND" in mahsm(group).out


def test_an_error_is_one_line_on_stderr() -> None:
    there = process("configure", "get", "nothing")
    assert (there.code, there.out) == (2, "")
    assert there.error.startswith("mahsm configure get: nothing is not set; run ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("versoin",), 'Unknown command "versoin". Did you mean "version"?'),
        (("version", "--jsn"), "Unknown option: --jsn. Did you mean --json?"),
        (("demo", "--top", "many"), "Invalid value for --top: 'many'; expected a whole number."),
        (("draw",), "parameter TARGET requires an argument"),
        (("version", "more"), "Unused Tokens: ['more']."),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], message: str, mahsm: Command) -> None:
    told = mahsm(*arguments)
    assert (told.code, told.out) == (2, "")
    assert message in told.error


@pytest.mark.parametrize("arguments", [("configure", "get", "nothing"), ("draw", "nowhere:x"), ("nothing",)])
def test_errors_with_json_are_one_line_of_json(arguments: tuple[str, ...], mahsm: Command) -> None:
    told = mahsm(*arguments, "--json")
    assert (told.code, told.out) == (2, "")
    assert set(json.loads(told.error)) == {"error", "type"}


def test_an_error_that_is_not_expected_has_its_type_and_place(
    mahsm: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("it is\nbroken")

    monkeypatch.setattr("mahsm.cli._main.app", broken)
    told = mahsm("version")
    assert told.code == 1
    assert told.error.startswith("mahsm version: RuntimeError: it is broken (")
    assert f"{Path(__file__).name}, line " in told.error


def test_a_reader_that_stops_reading_is_no_error() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run([*PROCESS, "models"], stdout=theirs, stderr=subprocess.PIPE, text=True, check=False)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (141, "")


def test_completion_completes_commands_and_options(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(process("completion", "bash").out)
    ask = (
        f"source {script}; COMP_WORDS=(mahsm draw --fo); COMP_CWORD=2; _mahsm; echo ${{COMPREPLY[@]}};"
        "COMP_WORDS=(mahsm doc); COMP_CWORD=1; _mahsm; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", ask], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["--format", "doctor"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_as_json(shell: str, mahsm: Command) -> None:
    document = mahsm("completion", shell, "--json").document
    assert document["shell"] == shell
    assert "doctor" in document["script"]


CHATTY = """
import os, subprocess, sys
os.write(1, b"import ")
def row(state):
    subprocess.run(["echo", "a program"])
    print("a line")
def leave(state):
    sys.exit(3)
"""


def test_with_json_stdout_has_only_the_document(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(CHATTY)
    (tmp_path / "rows.jsonl").write_text('{"n": 1}\n')
    done = process("run", "chatty:row", "-i", "rows.jsonl", "-o", "out", "--json", folder=tmp_path)
    assert done.document["rows"] == 1
    assert set(done.err.splitlines()) == {"import a program", "a line"}


def test_a_row_that_ends_the_process_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(CHATTY)
    (tmp_path / "rows.jsonl").write_text('{"n": 1}\n')
    done = process("run", "chatty:leave", "-i", "rows.jsonl", "-o", "out", folder=tmp_path)
    assert done.code == 1
    assert "mahsm run: SystemExit: 3 (" in done.err.splitlines()[-1]
    assert "chatty.py, line 8)" in done.err


@pytest.mark.parametrize("columns", ["0", "1"])
def test_help_ends_in_a_terminal_without_width(columns: str) -> None:
    command = [*PROCESS, "run", "--help"]
    done = subprocess.run(
        command, env={**os.environ, "COLUMNS": columns}, check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("Usage: mahsm run")


def test_help_ends_in_a_terminal_of_one_column() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 1))
    command = [*PROCESS, "run", "--help"]
    done = subprocess.run(command, stdin=theirs, env=environment, check=True, capture_output=True, text=True)
    os.close(ours)
    os.close(theirs)
    assert done.stdout.startswith("Usage: mahsm run")


@pytest.mark.parametrize(("redirection", "code"), [(">&-", 0), ("<&-", 0), ("2>&-", 0)])
def test_a_closed_stream_is_no_error(redirection: str, code: int) -> None:
    command = f"exec {sys.executable} -m mahsm version --json {redirection}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")


def test_stdout_that_takes_ascii_only_gets_ascii(tmp_path: Path) -> None:
    (tmp_path / "drawn.py").write_text(
        "from mahsm import vmap\nedge = vmap(lambda state: 1, batch_key='é', out_key='n', name='é')\n"
    )
    command = [*PROCESS, "draw", "drawn:edge"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    drawn = subprocess.run(
        command, env=ascii_only, cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert "v each of \\xe9" in drawn
    as_json = subprocess.run(
        [*command, "--json"], env=ascii_only, cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert "╭" in json.loads(as_json)["drawing"]
