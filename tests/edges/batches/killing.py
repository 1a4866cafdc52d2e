"""Kills of processes that have batch jobs open."""

import json
import random
import subprocess
from dataclasses import dataclass

from tests.edges.batches.worker import Plan


@dataclass
class Killed:
    """What came of a run that was killed and begun again until it was complete.

    Attributes:
        kills: The number of kills.
        ys: The results.
    """

    kills: int
    ys: list[str]


def run_killed(plan: Plan, kills: int, seed: int, seconds: float = 1.5) -> Killed:
    """Run a plan, killing it up to so many times, each within so many seconds of its beginning."""
    drawn, made = random.Random(seed), 0
    while True:
        process = subprocess.Popen(plan.command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "begun\n"
            if made < kills:
                try:
                    # It may be complete before it is killed.
                    process.wait(drawn.uniform(0, seconds))
                except subprocess.TimeoutExpired:
                    process.kill()
                    made += 1
            rest = process.stdout.read()
            process.wait(120)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if process.returncode == 0:
            return Killed(made, json.loads(rest))
        assert process.returncode < 0, process.returncode
