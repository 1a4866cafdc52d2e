"""The lock file says the same as pyproject.toml."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = [
    Requirement(line.partition(" --hash")[0].rstrip())
    for line in LOCK.replace("\\\n", "").splitlines()
    if not line.startswith("#")
]
PYTHONS = [
    classifier.rpartition(" ")[2]
    for classifier in PROJECT["classifiers"]
    if classifier.startswith("Programming Language :: Python :: 3.")
]


def required(*extras: str) -> list[Requirement]:
    """The direct dependencies, of these extras too, and of those that they name."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    found = [Requirement(text) for each in lists for text in each]
    own = [requirement for requirement in found if requirement.name == PROJECT["name"]]
    others = [requirement for requirement in found if requirement.name != PROJECT["name"]]
    return others + [each for requirement in own for each in required(*requirement.extras)]


@pytest.mark.parametrize("python", PYTHONS)
def test_each_dependency_is_locked_at_a_version_that_pyproject_allows(python: str) -> None:
    here = {"python_version": python, "python_full_version": f"{python}.9"}
    versions = {
        canonicalize_name(locked.name): next(iter(locked.specifier)).version
        for locked in LOCKED
        if locked.marker is None or locked.marker.evaluate(here)
    }
    wrong = [
        str(requirement)
        for requirement in required("all", "dev")
        if not requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), "0.dev0"))
    ]
    assert wrong == []


def test_each_entry_is_one_version_with_its_hashes() -> None:
    assert all([each.operator for each in locked.specifier] == ["=="] for locked in LOCKED)
    entries = LOCK.replace("\\\n", "").splitlines()
    assert [line for line in entries if not line.startswith("#") and "--hash=sha256:" not in line] == []


def test_the_lock_file_names_no_host() -> None:
    assert "://" not in LOCK
    assert "index-url" not in LOCK
