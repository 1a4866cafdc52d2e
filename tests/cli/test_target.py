"""Graphs of the user's, by `module:name` and `path/to/file.py:name`."""

import itertools
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mahsm.cli._outcome import UsageError
from mahsm.cli._target import graph_of, load

Write = Callable[..., str]

GRAPH = """
from typing import TypedDict
from langgraph.graph import END, START, StateGraph

class State(TypedDict):
    x: int

builder = StateGraph(State).add_node("load", lambda state: state)
builder.add_edge(START, "load").add_edge("load", END)
graph = builder.compile()

def build(name="made"):
    return builder.compile(name=name)

def node(state):
    return state

class Holder:
    graph = graph

number = 3
print("imported")
"""

_numbers = itertools.count()


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into the current folder, and returns its name, which no other test has."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(text: str = GRAPH, folder: str = ".") -> str:
        name = f"module_of_a_test_{next(_numbers)}"
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.py").write_text(text)
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("module_of_a_test"):
            del sys.modules[name]


def test_a_module_in_the_current_folder(written: Write, capsys: pytest.CaptureFixture[str]) -> None:
    name = written()
    assert load(f"{name}:number") == 3
    assert load(f"{name}:graph") is load(f"{name}:Holder.graph")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "imported\n"), "what it prints is no output of the command"


def test_a_file_is_a_module_that_pickles_find_again(written: Write) -> None:
    name = written(folder="flows")
    holder = load(f"flows/{name}.py:Holder")
    assert load(f"flows/{name}.py:Holder").__class__ is holder.__class__
    assert type(pickle.loads(pickle.dumps(holder))) is type(holder)
    assert sys.modules[name].Holder is type(holder)


def test_a_file_with_the_name_of_another_module(written: Write, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("mine = 1\n")
    import json

    assert load("json.py:mine") == 1
    assert sys.modules["json"] is json
    del sys.modules["json_of_file"]


def test_what_needs_no_argument_is_called(written: Write) -> None:
    name = written()
    assert load(f"{name}:build").name == "made"
    assert callable(load(f"{name}:node"))
    assert type(load(f"{name}:Holder")).__name__ == "Holder"
    various = written("def various(*arguments): ...\n")
    assert callable(load(f"{various}:various"))


@pytest.mark.parametrize("kind", ["graph", "builder", "build"])
def test_graphs_are_compiled(kind: str, written: Write) -> None:
    assert "load" in graph_of(f"{written()}:{kind}").get_graph().nodes


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("app", "'app' names no object; expected module:name or file.py:name, such as 'app:graph'."),
        (":graph", "names no object"),
        ("nowhere:graph", "no module 'nowhere', neither in "),
        ("nowhere.deep:graph", "no module 'nowhere', neither in "),
        ("flows/nowhere.py:graph", "no file 'flows/nowhere.py'."),
    ],
)
def test_what_is_not_there_is_named(target: str, message: str, written: Write) -> None:
    with pytest.raises(UsageError) as raised:
        load(target)
    assert message in str(raised.value)


def test_the_nearest_names_are_offered(written: Write) -> None:
    name = written()
    with pytest.raises(UsageError, match=rf"'{name}' has no 'grph'. Did you mean 'graph'"):
        load(f"{name}:grph")
    with pytest.raises(UsageError, match=r"has no 'zzz'. It has END, Holder, START"):
        load(f"{name}:zzz")
    with pytest.raises(UsageError, match=rf"no module '{name}s'.* Did you mean '{name}'"):
        load(f"{name}s:graph")
    with pytest.raises(UsageError, match=rf"no file '{name}s.py'. Did you mean '{name}.py'"):
        load(f"{name}s.py:graph")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n1 / 0\n", "ZeroDivisionError: division by zero (.*, line 2)"),
        ("import no_such_package\n", "ModuleNotFoundError: No module named 'no_such_package' (.*, line 1)"),
        ("def f(:\n", "SyntaxError: invalid syntax (.*, line 1)"),
        ("\nraise SystemExit('bye')\n", "SystemExit: bye (.*, line 2)"),
        ("def f():\n    import json\n    json.loads('{')\nf()\n", "JSONDecodeError: .*"),
    ],
)
@pytest.mark.parametrize("as_file", [False, True])
def test_an_import_that_fails_has_its_line(text: str, message: str, as_file: bool, written: Write) -> None:
    name = written(text)
    place = f"{name}.py" if as_file else name
    pattern = message.replace("(", r"\(").replace(")", r"\)")
    for _ in range(2):
        with pytest.raises(UsageError, match=rf"the import of '.*{place}' failed: {pattern}"):
            load(f"{place}:graph")


def test_a_function_that_fails_has_its_line(written: Write) -> None:
    name = written("def build():\n    x = {}\n    return x['graph']\n\nasync def later(): ...\n")
    with pytest.raises(
        UsageError, match=rf"'{name}:build' failed: KeyError: 'graph' \(.*{name}.py, line 3\)"
    ):
        load(f"{name}:build")
    with pytest.raises(UsageError, match="is an async function without parameters"):
        load(f"{name}:later")


def test_what_is_no_graph(written: Write) -> None:
    name = written()
    with pytest.raises(UsageError, match=r"is 3; expected a graph, an edge, or a function"):
        graph_of(f"{name}:number")


def test_a_graph_that_cannot_be_compiled_is_named(written: Write) -> None:
    module = written(GRAPH + "empty = StateGraph(State)\n")
    with pytest.raises(UsageError, match=":empty' cannot be compiled: Graph must have an entrypoint"):
        load(f"{module}:empty")
