"""What a user's type checker sees of mahsm."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any, get_args

import mahsm

ROOT = Path(__file__).parent.parent


def typed(package: str, folder: Path) -> None:
    """Put a package into a folder, marked as typed.

    DSPy has its types inline and no `py.typed`, and `langgraph` is a namespace, where pyright looks for none.
    To `--verifytypes`, what comes from either would be unknown.
    """
    (folder / package).mkdir()
    spec = find_spec(package)
    assert spec is not None
    entries = {entry.name: entry for entry in Path((spec.submodule_search_locations or [])[0]).iterdir()}
    for name in entries.keys() | {"py.typed", "__init__.py"}:
        if name in entries:
            (folder / package / name).symlink_to(entries[name])
        else:
            (folder / package / name).touch()


def test_every_public_name_has_a_known_type(tmp_path: Path) -> None:
    for package in ("dspy", "langgraph"):
        typed(package, tmp_path)
    paths = {
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path))),
    }
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--verifytypes", "mahsm", "--ignoreexternal"],
        cwd=tmp_path,
        env={**os.environ, **paths},
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)["typeCompleteness"]
    unknown = [symbol["name"] for symbol in report["symbols"] if not symbol["isTypeKnown"]]
    assert unknown == [], f"{unknown}"
    assert (report["completenessScore"], report["packageRootDirectory"]) == (1, str(ROOT / "mahsm"))


ROOMS = [
    mahsm,
    *(getattr(mahsm, name) for name in mahsm.__all__ if isinstance(getattr(mahsm, name), type(mahsm))),
]


def classes(annotation: Any) -> Iterator[type[Any]]:
    """The classes of mahsm in an annotation."""
    if isinstance(annotation, type) and annotation.__module__.startswith("mahsm."):
        yield annotation
    for part in get_args(annotation):
        yield from classes(part)


def test_what_public_functions_return_can_be_named() -> None:
    public = [getattr(room, name) for room in ROOMS for name in room.__all__]
    returned = {
        function.__qualname__: list(classes(function.__annotations__["return"]))
        for function in public
        if isinstance(function, FunctionType)
    }
    assert mahsm.Ledger in returned["usage"]
    kinds = [kind for kind in public if isinstance(kind, type)]
    assert {name: found for name, found in returned.items() if not {*found} <= {*kinds}} == {}


def test_the_typing_surface_uses_public_names_only() -> None:
    lines = (ROOT / "tests" / "typing_surface.py").read_text().splitlines()
    assert [line for line in lines if line.startswith(("from mahsm", "import mahsm")) and "._" in line] == []
