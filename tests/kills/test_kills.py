"""A few kills of each kind; `python -m tests.kills` runs many."""

import random

import pytest

from tests.kills.killing import kill_and_resume, plan_of

SAMPLE = [
    ("flat", "sqlite", True, 0.0),
    ("flat", "async-sqlite", False, 0.02),
    ("nested", "sqlite", False, 0.0),
    ("subgraph", "async-sqlite", True, 0.0),
    ("policies", "sqlite", True, 0.02),
]
SAMPLE_OF_DATABASE = [
    ("flat", "postgres", True, 0.02),
    ("nested", "async-postgres", False, 0.0),
    ("parallel", "postgres", False, 0.0),
]


@pytest.mark.parametrize(("kind", "saver", "blocks", "slow"), SAMPLE)
def test_killed_over_a_file(kind: str, saver: str, blocks: bool, slow: float) -> None:
    with plan_of(kind, saver, blocks=blocks, slow=slow, database=None, thread="1") as plan:
        kill_and_resume(plan, kills=1, chance=random.Random(kind))


@pytest.mark.parametrize(("kind", "saver", "blocks", "slow"), SAMPLE_OF_DATABASE)
def test_killed_over_a_database(database: str, kind: str, saver: str, blocks: bool, slow: float) -> None:
    with plan_of(kind, saver, blocks=blocks, slow=slow, database=database, thread=f"{kind} {saver}") as plan:
        kill_and_resume(plan, kills=1, chance=random.Random(kind))
