"""What the package promises as a whole: names, light import, layers, one test command."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import mahsm

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"cli", "__main__"},
    {"learn"},
    {"xcs", "compose"},
    {"context"},
    {"graph"},
    {"reducers"},
    {"edges"},
    {"operators"},
    {"_models"},
    {"nodes", "testing", "_numeric", "tracing"},
    {"_batches"},
    {"limits"},
    {"policies", "_progress", "_context", "data"},
    {"_model_calls"},
    {"_spans", "_redis"},
    {"_waiting"},
    {"_common"},
    {"errors", "_lazy"},
]
LAYERS_OF_EDGES = [
    {"__init__", "_internal"},
    {"_vmap", "_routed"},
    {"_parallel", "_reduce", "_jit", "_batched"},
    {"_shared"},
]
OWNERS = {
    "jax": {"_numeric", "operators", "xcs", "learn"},
    "optax": {"learn"},
    "equinox": {"operators", "compose", "learn"},
    "langfuse": {"tracing"},
    "opentelemetry": {"tracing", "testing"},
    "dspy": {
        "_batches",
        "_models",
        "context",
        "nodes",
        "graph",
        "operators",
        "reducers",
        "testing",
        "tracing",
        "cli",
    },
    "rich": {"cli", "_progress"},
    "yaml": {"_context", "cli"},
    "keyring": {"_context"},
    "pyarrow": {"data"},
    "redis": {"_redis"},
}


def in_new_process(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_import_is_light() -> None:
    heavy = (
        "jax",
        "dspy",
        "langfuse",
        "langgraph",
        "langchain_core",
        "numpy",
        "rich",
        "tenacity",
        "aiolimiter",
        "yaml",
        "keyring",
        "redis",
    )
    code = f"import sys, mahsm; print([name for name in {heavy!r} if name in sys.modules])"
    assert in_new_process(code) == "[]"


def test_an_edge_of_functions_imports_nothing_heavy_beside_langgraph() -> None:
    code = """
import sys
import langgraph.graph
before = {*sys.modules}
from mahsm import Retry, connect, parallel, reduce_edge, vmap
edge = vmap(lambda state: state["item"], batch_key="xs", out_key="ys", retry=Retry())
assert edge.invoke({"xs": [1]}) == {"ys": [1]}
print([name for name in ("jax", "dspy", "numpy", "opentelemetry.sdk", "cloudpickle", "redis") if
       name in sys.modules and name not in before])
"""
    assert in_new_process(code) == "[]"


@pytest.mark.parametrize("name", mahsm.__all__)
def test_every_name_is_there(name: str) -> None:
    assert getattr(mahsm, name) is not None


def test_names_come_when_they_are_first_used() -> None:
    assert (
        in_new_process("import mahsm; print(mahsm.vmap.__name__, mahsm.reducers.__name__)")
        == "vmap mahsm.reducers"
    )


def test_names_are_those_of_the_type_checkers_block() -> None:
    tree = ast.parse((ROOT / "mahsm" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == set(mahsm.__all__) == set(mahsm._HOMES) == set(dir(mahsm))


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'mahsm' has no attribute 'vmaps'"):
        _ = mahsm.vmaps  # type: ignore[attr-defined]


def test_edges_can_be_reached_through_graph() -> None:
    assert mahsm.graph.edges is mahsm.edges


def test_version() -> None:
    assert mahsm.__version__ == version("mahsm") == "0.8.0"


def module_of(path: Path) -> str:
    return ".".join(("mahsm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


PACKAGE = ROOT / "mahsm"
MODULES = {module_of(path): path for path in PACKAGE.rglob("*.py")}


def exported(module: str) -> set[str]:
    """The names in a module's `__all__`."""
    tree = ast.parse(MODULES[module].read_text()) if module in MODULES else ast.Module([], [])
    lists = (
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and "__all__" in map(ast.unparse, node.targets)
    )
    return {name for names in lists for name in ast.literal_eval(names)}


def imports() -> list[tuple[str, str]]:
    """Every import, in functions and for type checkers too: the module that it is in, and the module it is
    of.

    What a package exports is of the package, for modules elsewhere, also if it is a module.
    """
    exports = {module: exported(module) for module in MODULES}
    found: list[tuple[str, str]] = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found += [(module, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                is_door = not module.startswith(node.module)
                names = [
                    alias.name
                    for alias in node.names
                    if not is_door or alias.name not in exports.get(node.module, ())
                ]
                of = [f"{node.module}.{name}" for name in names]
                found += [(module, name if name in MODULES else node.module) for name in of] or [
                    (module, node.module)
                ]
    return found


INSIDE = [(module, name) for module, name in imports() if name.startswith("mahsm.") and module != "mahsm"]


def room(module: str) -> str:
    return module.split(".")[1]


def room_of_edges(module: str) -> str:
    """The folder of `edges` that a module is in; `__init__` for what is in none."""
    parts = module.split(".")
    return parts[2] if len(parts) > 2 else "__init__"


def level(layers: list[set[str]], part: str) -> int:
    return next(index for index, layer in enumerate(layers) if part in layer)


def test_modules_import_only_from_below() -> None:
    pairs = {(room(module), room(name)) for module, name in INSIDE if room(module) != room(name)}
    assert {pair for pair in pairs if level(LAYERS, pair[1]) <= level(LAYERS, pair[0])} <= {
        ("__main__", "cli")
    }


def test_edges_import_only_from_below() -> None:
    pairs = {tuple(map(room_of_edges, pair)) for pair in INSIDE if room(pair[0]) == room(pair[1]) == "edges"}
    wrong = [
        pair
        for pair in pairs
        if pair[0] != pair[1] and level(LAYERS_OF_EDGES, pair[1]) <= level(LAYERS_OF_EDGES, pair[0])
    ]
    assert wrong == []


def test_no_module_imports_itself_through_others() -> None:
    below: dict[str, set[str]] = {}
    for module, name in INSIDE:
        if not module.startswith(f"{name}."):  # a package's own __init__, which is being imported
            below.setdefault(module, set()).add(name)
    assert len(list(TopologicalSorter(below).static_order())) > 100


def is_door(name: str) -> bool:
    """Whether others may import from a module: a room, a module that stands alone, or the inner face of a
    package."""
    depth = name.count(".")
    return depth == 1 or (depth == 2 and name.endswith("._internal"))


def test_rooms_are_entered_by_their_doors() -> None:
    between = {(module, name) for module, name in INSIDE if room(module) != room(name)}
    assert [pair for pair in between if not is_door(pair[1])] == []


def test_edges_are_entered_by_their_doors() -> None:
    wrong = [
        (module, name)
        for module, name in INSIDE
        if room(module) == room(name) == "edges"
        and room_of_edges(name) not in {room_of_edges(module), "_shared"}
        and name.count(".") > 2
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in PACKAGE.rglob("*/__init__.py")), ids=lambda path: path.name
)
def test_a_package_says_what_is_in_it(folder: Path) -> None:
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    there = {
        path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__"}
    assert {name for name in there if f"`{name}`" not in said} == set()


def test_the_map_of_the_package_is_true() -> None:
    page = (ROOT / "docs" / "explanation" / "design.md").read_text().partition("## Where things are")[2]
    files = re.findall(r"^\| [^|]+ \| `([^`]+)` \|$", page, re.MULTILINE)
    assert len(files) >= 20
    assert [file for file in files if not (PACKAGE / file).is_file()] == []


def test_few_modules_stand_alone() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 8


def test_context_variables_are_few_and_listed() -> None:
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    made = re.findall(r"\bContextVar\(\s*\"(\w+)\"", sources)
    design = (ROOT / "docs" / "explanation" / "design.md").read_text()
    assert sorted(made) == sorted(re.findall(r"^\| `(mahsm_\w+)` \|", design, re.MULTILINE))
    assert len(made) <= 13


def test_heavy_dependencies_have_owners() -> None:
    for module, name in imports():
        owners = OWNERS.get(name.split(".")[0])
        assert owners is None or room(module) in owners, f"{module} imports {name}"


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
    run = subprocess.run(
        ["bash", "-c", f"while {listed}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines() == commands


def test_top_level_holds_only_what_belongs_there() -> None:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a checkout")
    names = {line.split("/")[0] for line in done.stdout.splitlines()}
    expected = {"pyproject.toml", "requirements.lock", "README.md", "LICENSE"}
    expected |= {"mahsm", "tests", "examples", "docs", "benchmarks"}
    assert {name for name in names if not name.startswith(".")} <= expected


def test_hooks_check_what_ci_checks() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"], "nothing is fetched"
    entries = [hook["entry"] for hook in config["repos"][0]["hooks"]]
    checked = re.findall(r"^\.venv/bin/(\w+ ?\w*)", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    lint = [command.strip() for command in checked if not command.startswith("python")]
    assert [entry.partition(" --")[0] for entry in entries] == lint
