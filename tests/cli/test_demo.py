"""`mahsm demo`, as a user runs it."""

import json
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mahsm
from mahsm import cli
from mahsm.cli import _documents, _relevance
from mahsm.cli._demo import QUESTION
from mahsm.testing import Call, ModelServer, Reply
from tests.cli.conftest import Terminal


def demo(*arguments: str) -> int:
    return cli.main(["demo", *arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bucket.md").write_text("A token bucket limits the rate of calls.")
    (tmp_path / "roof.md").write_text("A roof keeps the rain out, whatever the weather.")
    return tmp_path


def test_answers_over_the_installed_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo() == 0
    shown = capsys.readouterr()
    best = ("Best match: aiolimiter", "Best match: pyrate-limiter")
    assert any(match in shown.out for match in best), "either, if both are installed"
    assert "graph TD;" not in shown.out
    assert "0 model calls, 0 tokens, 0 failed" in shown.out
    assert "vmap_relevance" in shown.err, "the progress bar"


def test_as_a_module_in_a_process_of_its_own(folder: Path) -> None:
    command = [sys.executable, "-m", "mahsm", "demo", "--files", str(folder / "*.md"), "--top", "1"]
    wide = {**os.environ, "COLUMNS": "300"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=wide)
    assert "bucket.md" in done.stdout
    assert "2 documents: " in done.stdout
    assert "A token bucket limits the rate of calls." in done.stdout


def test_one_document_and_one_call(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer(Reply({"score": 1, "why": "So it says."}, usage=(1, 0))) as server:
        demo("--files", str(folder / "roof.md"), "--model", "openai/fake", "--api-base", server.base_url)
    shown = capsys.readouterr().out
    assert "\n1 document: " in shown
    assert ", 1 model call, 1 token, 0 failed" in shown


def test_the_state_machine_is_drawn_if_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--files", str(folder), "--graph") == 0
    shown = capsys.readouterr().out
    assert "graph TD;" in shown
    assert "vmap_relevance" in shown


def test_alone_it_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    shown = capsys.readouterr()
    assert "Usage: mahsm" in shown.out
    assert "Rank documents" in shown.out
    assert shown.err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mahsm {mahsm.__version__}\n"


def test_a_folder_is_all_text_files_in_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "more" / ".git").mkdir(parents=True)
    (folder / "more" / "pond.txt").write_text("A pond holds water.")
    (folder / "more" / ".git" / "config").write_text("bucket bucket")
    (folder / "more" / "picture.bin").write_bytes(b"\xff\xfe\x00")
    assert demo("--files", str(folder), str(folder / "*.md")) == 0
    shown = capsys.readouterr().out
    assert "3 documents: " in shown
    assert "pond.txt" in "".join(shown.split())
    assert "config" not in shown


def test_a_folder_without_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "picture.bin").write_bytes(b"\xff\xfe\x00")
    assert demo("--files", str(tmp_path)) == 2
    assert "has no text files; expected files to read, such as 'docs' or 'docs/*.md'." in one_line(capsys)


@pytest.mark.parametrize("question", ["", "  "])
def test_an_empty_question(question: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--question", question) == 2
    assert "is empty; expected a question, or leave it out for 'Which of them does" in one_line(capsys)


def test_a_question_of_common_words_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--files", str(folder), "--question", "What is it?") == 0
    assert "No document matches." in capsys.readouterr().out


def test_markup_in_a_document_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "[b].md").write_text("no words")
    with ModelServer({"score": 1, "why": "It says [/red] there."}) as server:
        assert demo("--files", str(tmp_path), "--model", "openai/fake", "--api-base", server.base_url) == 0
    assert "It says [/red] there." in capsys.readouterr().out


def test_as_a_module_gives_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["mahsm", "demo", "--model", "gpt"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("mahsm", run_name="__main__")


def test_question_that_nothing_answers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--files", str(folder / "*.md"), "--question", "Quantum chromodynamics?") == 0
    assert "No document matches." in capsys.readouterr().out


def test_a_model_reads_each_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer(
        lambda call: {"score": float("bucket" in call.field("document")), "why": "So it says."}
    ) as server:
        code = demo("--files", str(folder / "*.md"), "--model", "openai/fake", "--api-base", server.base_url)
    shown = capsys.readouterr().out
    assert code == 0
    assert len(server.calls) == 2
    assert "2 model calls" in shown
    assert "So it says." in shown


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mahsm demo:")]
    assert len(lines) == 1
    return lines[0]


def test_unknown_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--files", "/nowhere/*.md") == 2
    assert (
        one_line(capsys)
        == "mahsm demo: --files '/nowhere/*.md' matches no file; expected files to read, such as 'docs' or "
        "'docs/*.md'."
    )


def test_file_that_is_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.bin").write_bytes(b"\xff\xfe\x00")
    assert demo("--files", str(tmp_path / "*.bin")) == 2
    assert "is not a UTF-8 text file" in one_line(capsys)


def test_no_distributions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_documents, "distributions", list)
    assert demo() == 2
    assert "no Python distribution is installed here; pass --files" in one_line(capsys)


def test_model_without_a_provider(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--model", "gpt-4o-mini") == 2
    assert "has no provider; expected provider/model, such as openai/gpt-4o-mini" in one_line(capsys)


def test_model_that_refuses(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer(Reply.failed(401)) as server:
        code = demo("--files", str(folder / "*.md"), "--model", "openai/fake", "--api-base", server.base_url)
    assert code == 1
    assert "model 'openai/fake' failed" in one_line(capsys)


def test_numbers_that_make_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--top", "0") == 2
    assert '"0" for --top. Expected a whole number >= 1.' in one_line(capsys)


def test_a_pattern_that_the_shell_made_nothing_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--files") == 2
    assert "--files has no files" in one_line(capsys)


def test_interrupted_by_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_documents, "installed", interrupted)
    assert demo() == 130


def test_as_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo("--files", str(folder), "--graph", "--top", "1", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document.pop("seconds") > 0
    assert "graph TD;" in document.pop("mermaid")
    (best,) = document.pop("best")
    assert best["name"].endswith("bucket.md")
    assert document == {
        "question": QUESTION,
        "documents": 2,
        "model_calls": 0,
        "tokens": 0,
        "failed": 0,
    }


def test_a_bar_at_a_terminal(folder: Path, terminal: Callable[..., Terminal]) -> None:
    child = terminal("demo", "--files", str(folder))
    child.expect("vmap_relevance")
    code, told = child.end()
    assert code == 0
    assert "2/2" in told
    assert "Best match: " in told


def test_ctrl_c_at_a_terminal(folder: Path, terminal: Callable[..., Terminal]) -> None:
    began, gate = threading.Event(), threading.Event()

    def slow(_: Call) -> Reply:
        began.set()
        gate.wait()
        return Reply("late")

    with ModelServer(slow) as server:
        child = terminal("demo", "--files", str(folder), "--model", "openai/x", "--api-base", server.base_url)
        assert began.wait(120)
        child.press("c")
        code, told = child.end()
        gate.set()
    assert code == 130
    assert "mahsm demo: interrupted" in told
    assert "Traceback" not in told


def test_bm25_follows_its_formula() -> None:
    counts = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    rarity = _relevance.rarity(counts)
    assert rarity == pytest.approx([np.log(1 + 1.5 / 2.5), np.log(1 + 2.5 / 1.5)])
    expected = rarity[0] * 2 * 2.2 / (2 + 1.2 * (0.25 + 0.75 * 10 / 5))
    assert _relevance.bm25(counts[0], 10, rarity, 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Rain. A bucket leaks at a rate! More rain.", "A bucket leaks at a rate!"),
        ("A rate.\n\nA rate of a bucket that leaks\nhere. A bucket.", "A rate of a bucket that leaks here."),
        ("# A bucket\n- the *rate* of `a` [bucket](http://rate)\n- rain", "the rate of a bucket"),
        ("<b>A rate</b> ![bucket](b.png)\n| bucket | rate |", "bucket rate"),
        ("```\nbucket = rate\n```\nA bucket.", "A bucket."),
        ("A very long bucket. A bucket.", "A bucket."),
        ("Rain.", ""),
        ("", ""),
    ],
)
def test_the_sentence_with_the_most_of_the_question(text: str, found: str) -> None:
    assert _relevance.sentence(["bucket", "rate"], text, np.array([1.0, 1.5])) == found


def test_a_long_sentence_is_cut_between_words() -> None:
    text = "rain " * 10 + "a bucket leaks " + "rain " * 10
    assert _relevance.sentence(["bucket"], text, np.array([1.0]), longest=20) == "... rain rain a bucket ..."
    assert (
        _relevance.sentence(["rare"], "a common word and a rare one", np.array([2.0]), longest=18)
        == "... a rare one"
    )


def test_terms() -> None:
    assert _relevance.terms("Which does rate-limiting of limiters?") == ["rate", "limit", "limit"]
