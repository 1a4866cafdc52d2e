"""Every code block, docstring example and script does what the page says."""

import contextlib
import contextvars
import doctest
import importlib
import io
import linecache
import pkgutil
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import mahsm
from tests import scripts

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "README.md"]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MODULES = [
    module.name
    for module in pkgutil.walk_packages(mahsm.__path__, "mahsm.")
    if module.name != "mahsm.__main__"
]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_print_what_stands_below_them(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "redis-server" in page.read_text() and shutil.which("redis-server") is None:
        pytest.skip("no redis-server; Debian has it in the package redis-server")
    # Settings that a page saves, or sets outside of a block, are its own.
    monkeypatch.setenv("MAHSM_HOME", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = contextvars.copy_context().run
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for number, (language, code) in enumerate(BLOCK.findall(page.read_text())):
        if language == "python":
            output = io.StringIO()
            # As a cell of a notebook, whose source can be found.
            name = f"{page} [{number}]"
            linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
            with contextlib.redirect_stdout(output):
                run(exec, compile(code, name, "exec"), names)
            printed = output.getvalue()
        elif language == "text":
            assert printed == code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_examples_print_what_they_say(example: Path, tmp_path: Path) -> None:
    expected = "".join(
        f"{line.removeprefix('# ')}\n" for line in example.read_text().split("# Output:\n")[1].splitlines()
    )
    status, printed, errors = scripts.run(example, tmp_path, timeout=300)
    assert (status, printed) == (0, expected), errors


@pytest.mark.parametrize(
    ("end", "status", "error"),
    [("", 0, ""), ("raise ValueError('no')", 1, "ValueError: no"), ("raise SystemExit(3)", 3, "")],
)
def test_scripts_are_processes_of_their_own(tmp_path: Path, end: str, status: int, error: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import atexit, sys\natexit.register(print, 'bye')\nprint(__name__, 'mahsm' in sys.modules)\n{end}"
    )
    found = scripts.run(script, tmp_path, timeout=100)
    assert found[:2] == (status, "__main__ False\nbye\n")
    assert error in found[2]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0


@pytest.mark.parametrize("name", mahsm.__all__)
def test_public_functions_have_a_runnable_example(name: str) -> None:
    thing = getattr(mahsm, name)
    if not isinstance(thing, type(mahsm)):
        assert ">>>" in (thing.__doc__ or "")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 3
    listed = (ROOT / "examples" / "README.md").read_text()
    assert all(example.name in listed for example in EXAMPLES)
