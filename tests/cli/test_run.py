"""`mahsm run` and `mahsm usage`: processes, kills, Ctrl-C at a terminal, what they print."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mahsm.data import sinks, stream
from mahsm.testing import ModelServer

APP = """
import os, time
import dspy
from langgraph.graph import START, StateGraph
from typing import TypedDict
from mahsm import data, models, vmap

def shout(state):
    if state["n"] == 3:
        raise ValueError("three")
    return {"loud": state["text"].upper(), "same": state["item"]["n"] == state["n"]}

def length(text: str) -> int:
    return len(text)

async def ask(state):
    return str(await models.acall("openai/gpt-4o-mini", state["text"], cache=False))

def endless(state):
    print("began")
    time.sleep(600)

def slow(state):
    with open("calls", "a") as file:
        print(state["n"], file=file)
    time.sleep(0.1)
    return state["n"]

class State(TypedDict):
    n: int
    text: str
    twice: int

def builder():
    made = StateGraph(State)
    made.add_node("twice", lambda state: {"twice": 2 * state["n"]})
    made.add_edge(START, "twice")
    return made

def graph():
    return builder().compile()

class Length(dspy.Module):
    def __init__(self):
        super().__init__()
    def forward(self, text):
        return dspy.Prediction(length=len(text))

def never(state):
    raise ValueError("no\\nluck")

def rows():
    if os.path.exists("down"):
        raise ConnectionError("the source is down")
    return [{"n": n, "text": str(n)} for n in range(2)]

data.register("somewhere", rows)
words = vmap(length, batch_key="words", out_key="lengths")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an app and 20 rows."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"n": n, "text": f"row {n}", "words": ["a", "bc"]}) + "\n" for n in range(20))
    )
    return tmp_path


def mahsm(folder: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Run a command in the folder; return its exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "mahsm", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "MAHSM_HOME": str(folder / "home"), **variables},
    )
    return done.returncode, done.stdout, done.stderr


def test_a_function_for_each_row(folder: Path) -> None:
    code, printed, errors = mahsm(folder, "run", "app:shout", "-i", "rows.jsonl", "-o", "out")
    assert code == 0, errors
    assert printed.startswith(f"19 rows in {folder / 'out'}, 1 failed; ")
    assert "The rows that failed are in" in printed
    assert "vmap_shout" in errors
    found = sinks.read(folder / "out").collect()
    assert found == [{"loud": f"ROW {n}", "same": True} for n in range(20) if n != 3]
    assert [one["item"]["n"] for one in stream(folder / "out" / "errors.jsonl")] == [3]
    code, again, errors = mahsm(folder, "run", "app:shout", "-i", "rows.jsonl", "-o", "out")
    assert (code, again.split(";")[0]) == (0, printed.split(";")[0])
    assert "note: this run had ended before, so no row was called. To call them, remove out" in errors


@pytest.mark.parametrize(
    ("target", "options", "first"),
    [
        ("app:graph", [], {"n": 0, "text": "row 0", "twice": 0}),
        ("app:builder", [], {"n": 0, "text": "row 0", "twice": 0}),
        ("app:Length", [], {"length": 5}),
        ("app:words", [], {"lengths": [1, 2]}),
        ("app.py:length", ["--field", "text"], 5),
        ("app:shout", ["--limit", "2", "--format", "parquet"], {"loud": "ROW 0", "same": True}),
        ("app:words", ["--limit", "2", "--rps", "900"], {"lengths": [1, 2]}),
        (
            "app:shout",
            ["--limit", "2", "--tpm", "90000", "--tokens-per-row", "10"],
            {"loud": "ROW 0", "same": True},
        ),
    ],
)
def test_targets_of_other_kinds(folder: Path, target: str, options: list[str], first: Any) -> None:
    code, printed, errors = mahsm(folder, "run", target, "-i", "rows.jsonl", "-o", "out", "--json", *options)
    assert code == 0, errors
    assert json.loads(printed)["errors"] == 0
    assert sinks.read(folder / "out").limit(1).collect() == [first]


def test_rows_that_are_values_go_to_a_function_of_a_value(folder: Path) -> None:
    (folder / "words.jsonl").write_text('"a"\n"bc"\n')
    code, _, errors = mahsm(folder, "run", "app:length", "-i", "words.jsonl", "-o", "out")
    assert code == 0, errors
    assert sinks.read(folder / "out").collect() == [1, 2]


def test_rows_that_failed_are_rows_of_another_run(folder: Path) -> None:
    run = ["run", "app:shout", "-i", "rows.jsonl", "-o", "out"]
    printed = mahsm(folder, *run)[1]
    assert printed.splitlines()[-1].endswith("out/errors.jsonl; the first: ValueError: three")
    again = ["run", "app:graph", "-i", "out/errors.jsonl", "--field", "item", "-o", "again"]
    code, _, errors = mahsm(folder, *again)
    assert code == 0, errors
    assert sinks.read(folder / "again").collect() == [{"n": 3, "text": "row 3", "twice": 6}]


@pytest.mark.parametrize("options", [[], ["--on-error", "drop"], ["--dry-run"]])
def test_a_run_in_which_every_row_fails_has_failed(folder: Path, options: list[str]) -> None:
    run = ["run", "app:never", "-i", "rows.jsonl", "-o", "out", *options]
    code, printed, _ = mahsm(folder, *run)
    assert (code, printed.splitlines()[-1][-30:]) == (1, "the first: ValueError: no luck")
    document = json.loads(
        mahsm(folder, "run", "app:never", "-i", "rows.jsonl", "-o", "out", *options, "--json")[1]
    )
    assert document["errors"] == (5 if "--dry-run" in options else 20)


def test_two_graphs_do_not_write_one_folder(folder: Path) -> None:
    run = ["-i", "rows.jsonl", "-o", "out"]
    assert mahsm(folder, "run", "app:graph", *run)[0] == 0
    code, _, errors = mahsm(folder, "run", "app:builder", *run)
    assert (code, "results of another target: vmap_graph and not vmap_builder" in errors) == (2, True)
    # Of the run that was refused, there is no record.
    assert mahsm(folder, "usage", "out")[1].startswith("1 run: 0 model calls")


def test_a_broken_record_of_usage_is_named(folder: Path) -> None:
    (folder / "usage").mkdir()
    (folder / "usage" / "1.json").write_text('{"total": 1}')
    code, _, errors = mahsm(folder, "usage")
    assert (code, errors) == (2, "mahsm usage: 'usage/1.json' is not the record of a run. Remove it.\n")


def test_usage_is_noted_and_shown(folder: Path) -> None:
    with ModelServer("yes") as server:
        variables = {"OPENAI_API_KEY": "test", "MAHSM_API_BASE": server.base_url}
        options = ["--rps", "1000", "--provider", "openai", "--attempts", "2", "--timeout", "60"]
        run = ["run", "app:ask", "-i", "rows.jsonl", "-o", "out", "--json"]
        code, printed, errors = mahsm(folder, *run, *options, **variables)
        assert code == 0, errors
        document = json.loads(printed)
        assert (document["rows"], document["calls"]) == (20, 20)
        assert document["input_tokens"] > 0
        code, printed, errors = mahsm(folder, *run, "--dry-run", "--sample", "2", **variables)
        assert code == 0, errors
        estimate = json.loads(printed)
        assert (estimate["rows"], estimate["sampled"]) == (20, 2)
        assert estimate["tokens"] == pytest.approx(
            document["input_tokens"] + document["output_tokens"], rel=0.2
        )
        assert len(server.calls) == 22
    code, printed, errors = mahsm(folder, "usage", ".", "--json")
    assert code == 0, errors
    shown = json.loads(printed)
    assert shown["runs"] == 1
    assert shown["total"]["cache_read_tokens"] == 0
    assert shown["total"]["calls"] == shown["by_edge"]["vmap_ask"]["calls"] == 20
    assert [each["calls"] for each in shown["by_model"].values()] == [20]
    assert "20" in mahsm(folder, "usage", "out")[1]


@pytest.mark.slow
def test_usage_is_noted_of_a_run_that_is_killed(folder: Path) -> None:
    with ModelServer("yes") as server:
        variables = {"OPENAI_API_KEY": "test", "MAHSM_API_BASE": server.base_url}
        run = ["run", "app:ask", "-i", "rows.jsonl", "-o", "out", "--max-concurrency", "1"]
        limit = ["--rps", "4", "--provider", "openai"]
        with subprocess.Popen(
            [sys.executable, "-m", "mahsm", *run, *limit],
            cwd=folder,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "MAHSM_HOME": str(folder / "home"), **variables},
        ) as process:
            while not list(folder.glob("out/usage/*.json")):
                assert process.poll() is None
                time.sleep(0.05)
            process.kill()
        killed = json.loads(mahsm(folder, "usage", "out", "--json")[1])
        assert 0 < killed["total"]["calls"] <= len(server.calls) < 20
        not_noted = len(server.calls) - killed["total"]["calls"]
        code, _, errors = mahsm(folder, *run, **variables)
        assert code == 0, errors
        both = json.loads(mahsm(folder, "usage", "out", "--json")[1])
    assert both["runs"] == 2
    assert both["by_edge"]["vmap_ask"]["calls"] == len(server.calls) - not_noted >= 20 - not_noted


def test_a_budget_ends_the_run_and_the_same_command_goes_on(folder: Path) -> None:
    with ModelServer("yes") as server:
        variables = {"OPENAI_API_KEY": "test", "MAHSM_API_BASE": server.base_url}
        run = ["run", "app:ask", "-i", "rows.jsonl", "-o", "out", "--max-concurrency", "1"]
        code, _, errors = mahsm(folder, *run, "--max-tokens", "60", **variables)
        assert code == 1
        assert "mahsm run: " in errors.splitlines()[-1]
        first = len(server.calls)
        assert 0 < first < 20
        code, _, errors = mahsm(folder, *run, **variables)
        assert code == 0, errors
        assert len(server.calls) == 20
    assert sinks.read(folder / "out").collect() == ["yes"] * 20


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["app:shout", "-i", "no.jsonl"], 2, "no.jsonl' cannot be read"),
        (["app:nothing", "-i", "rows.jsonl"], 2, "nothing"),
        (
            ["app:shout", "-i", "rows.jsonl", "--max-concurrency", "0"],
            2,
            '"0" for --max-concurrency.',
        ),
        (["app:shout", "-i", "rows.jsonl", "--max-tokens", "1.5"], 2, "expected a whole number"),
        (["app:shout", "-i", "rows.jsonl", "--limit", "-1"], 2, "Expected a whole number >= 0."),
        (["app:shout", "-i", "rows.jsonl", "--timeout", "nan"], 2, "Expected a number > 0."),
        (["app:shout", "-i", "rows.jsonl", "--provider", "openai"], 2, "add --rps or --tpm"),
        (["app:shout", "-i", "rows.jsonl", "--tpm", "9"], 2, "pass --tokens-per-row with their number"),
        (["app:shout", "-i", "rows.jsonl", "--tokens-per-row", "9"], 2, "add --tpm"),
        (["app:shout", "-i", "rows.jsonl", "--sample", "3"], 2, "add it, or pass --limit 3"),
        (["app:shout", "-i"], 2, "--input has no files"),
        (["app:shout", "-i", "/dev/null"], 2, "is not a regular file"),
        (["app:length", "-i", "rows.jsonl"], 2, "takes one str, not a row; pass --field"),
        (["app:grph", "-i", "rows.jsonl"], 2, "'app' has no 'grph'. Did you mean 'graph'"),
        (["app:shout", "-i", "rows.jsonl", "--on-error", "raise"], 1, "three"),
        (
            ["app:length", "-i", "rows.jsonl", "--field", "txet", "--on-error", "raise"],
            2,
            "Did you mean 'text'?",
        ),
        (["app:shout"], 2, "--input"),
    ],
)
def test_errors_are_one_line(folder: Path, arguments: list[str], code: int, message: str) -> None:
    found, printed, errors = mahsm(folder, "run", *arguments, "-o", "out", "--json")
    assert (found, printed) == (code, "")
    assert message in json.loads(errors.splitlines()[-1])["error"]


def test_an_error_before_the_first_row_has_no_bar(folder: Path) -> None:
    code, printed, errors = mahsm(folder, "run", "app:shout", "-i", "rows.jsonl", "-o", ".")
    assert (code, printed) == (2, "")
    (line,) = errors.splitlines()
    assert "is not a sink. Pass an empty or new folder." in line


def test_a_run_whose_source_failed_before_its_first_row_goes_on(folder: Path) -> None:
    run = ["run", "app:shout", "-i", "somewhere", "-o", "out"]
    (folder / "down").touch()
    code, _, errors = mahsm(folder, *run)
    assert (code, "the source is down" in errors) == (1, True)
    (folder / "down").unlink()
    code, _, errors = mahsm(folder, *run)
    assert code == 0, errors


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_leaves_a_run_that_goes_on(folder: Path, terminal: Any) -> None:
    run = ["run", "app:slow", "-i", "rows.jsonl", "-o", "out"]
    child = terminal(*run, "--max-concurrency", "1", folder=folder)
    child.expect("/20")
    child.press("c")
    code, shown = child.end()
    assert code == 130
    assert "mahsm run: interrupted; the same command goes on from here" in shown
    before = (folder / "calls").read_text().split()
    code, _, errors = mahsm(folder, *run)
    assert code == 0, errors
    called = (folder / "calls").read_text().split()
    # The one that was in progress may be called again.
    assert 20 <= len(called) <= 21
    assert len(before) < 20
    assert sinks.read(folder / "out").collect() == list(range(20))


@pytest.mark.slow
def test_ctrl_c_again_ends_rows_in_progress(folder: Path, terminal: Any) -> None:
    child = terminal("run", "app:endless", "-i", "rows.jsonl", "-o", "out", folder=folder)
    child.expect("began")
    child.press("c")
    child.expect("the same command goes on from here. Ctrl+C again ends rows in progress.")
    child.press("c")
    code, shown = child.end()
    assert code == -signal.SIGINT
    assert "Traceback" not in shown
