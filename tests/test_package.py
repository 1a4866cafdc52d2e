"""What the package promises as a whole: names, light import, layers, one test command."""

import ast
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import mahsm

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"cli", "__main__"},
    {"graph"},
    {"reducers"},
    {"edges"},
    {"operators"},
    {"nodes", "testing", "_jit", "tracing"},
    {"limits"},
    {"policies", "_progress", "_usage"},
    {"_watch"},
    {"_dspy_lm", "_chat_models"},
    {"_client_retries"},
    {"_calls"},
    {"_spans", "_ledger"},
    {"_tasks", "_state"},
    {"_left"},
    {"_slots", "_stops"},
    {"_turns", "_prices", "_meters", "_redact", "_notes", "_bars"},
    {"errors", "_lazy", "_cached", "_types", "_figures"},
]
OWNERS = {
    "jax": {"_jit", "operators"},
    "equinox": {"operators"},
    "langfuse": {"tracing"},
    "opentelemetry": {"tracing", "testing"},
    "dspy": {"nodes", "graph", "operators", "reducers", "testing", "tracing", "cli"},
    "rich": {"cli", "_progress"},
}


def in_new_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import_is_light() -> None:
    heavy = ("jax", "dspy", "langfuse", "langgraph", "langchain_core", "numpy", "rich", "tenacity", "aiolimiter")
    code = f"import sys, mahsm; print([name for name in {heavy!r} if name in sys.modules])"
    assert in_new_process(code) == "[]"


@pytest.mark.parametrize("name", mahsm.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(mahsm, name) is not None


def test_names_come_when_they_are_first_used() -> None:
    assert in_new_process("import mahsm; print(mahsm.vmap.__name__, mahsm.reducers.__name__)") == "vmap mahsm.reducers"


def test_names_are_those_of_the_type_checkers_block() -> None:
    tree = ast.parse((ROOT / "mahsm" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported == set(mahsm.__all__) == set(mahsm._HOMES) == set(dir(mahsm))


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'mahsm' has no attribute 'vmaps'"):
        _ = mahsm.vmaps  # type: ignore[attr-defined]


def test_edges_can_be_reached_through_graph() -> None:
    assert mahsm.graph.edges is mahsm.edges


def test_version() -> None:
    assert mahsm.__version__ == version("mahsm") == "0.8.0"


def top(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for path in (ROOT / "mahsm").rglob("*.py"):
        inside = path.relative_to(ROOT / "mahsm").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(inside, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [f"mahsm.{alias.name}" for alias in node.names] if node.module == "mahsm" else [node.module]
                found += [(inside, name) for name in names]
    return [(inside, name) for inside, name in found if inside != "__init__"]


def level(part: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if part in layer)


def test_modules_import_only_from_below() -> None:
    wrong = [
        (inside, name)
        for inside, name in imports()
        if name.startswith("mahsm.") and top(name) != inside and level(top(name)) <= level(inside)
    ]
    assert set(wrong) <= {("__main__", "mahsm.cli")}


def test_heavy_dependencies_have_owners() -> None:
    for inside, name in imports():
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or inside in owners, f"{inside} imports {name}"


def test_nothing_private_of_langgraph_is_used() -> None:
    assert not [name for _, name in imports() if name.startswith(("langgraph._", "langgraph.pregel._"))]


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    venv = "python3 -m venv .venv && .venv/bin/python -m"
    commands = [f"{venv} pip install . && .venv/bin/python -m mahsm demo"]
    commands.append(f"{venv} pip install -e '.[dev]' && .venv/bin/python -m pytest --cov")
    readme = (ROOT / "README.md").read_text()
    assert re.findall(r"```console\n(.*?)```", readme, re.DOTALL) == [f"{command}\n" for command in commands]
    assert readme.index("Python >= 3.11") < readme.index("```console")
    loop = (ROOT / ".ci" / "run").read_text().partition("while ")[2].partition("\n\n")[0]
    listed = loop.replace('bash -c "$command" < /dev/null', 'echo "$command"')
    run = subprocess.run(["bash", "-c", f"while {listed}"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == commands


def test_top_level_holds_only_what_belongs_there() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a checkout")
    names = {line.split("/")[0] for line in done.stdout.splitlines()}
    expected = {"pyproject.toml", "mahsm", "tests", "examples", "docs", "benchmarks", "README.md", "LICENSE"}
    assert {name for name in names if not name.startswith(".")} <= expected
