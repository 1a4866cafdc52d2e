"""Kill workers of all kinds over all savers, and print what it cost:
`python -m tests.kills --kills 200 --seed 1`."""

import argparse
import itertools
import random
import sys
from collections import defaultdict
from contextlib import ExitStack

from tests.kills.database import postgres, programs
from tests.kills.killing import kill_and_resume, plan_of
from tests.kills.plans import KINDS, SAVERS

EACH = 3
"""Kills of one worker, before it may end."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS, help="only this kind")
    parser.add_argument("--saver", choices=SAVERS, help="only this saver")
    options = parser.parse_args()
    chance = random.Random(options.seed)
    again: dict[str, list[int]] = defaultdict(list)
    allowed: dict[str, int] = {}
    failures: list[str] = []
    with ExitStack() as stack:
        database = stack.enter_context(postgres()) if programs() is not None else None
        savers = [saver for saver in SAVERS if database or saver.endswith("sqlite")]
        plans = list(itertools.product(KINDS, savers, (True, False), (0.0, 0.02)))
        plans = [
            plan for plan in plans if options.kind in (None, plan[0]) and options.saver in (None, plan[1])
        ]
        chance.shuffle(plans)
        killed = 0
        for number, (kind, saver, blocks, slow) in enumerate(itertools.cycle(plans)):
            if killed >= options.kills:
                break
            with plan_of(
                kind, saver, blocks=blocks, slow=slow, database=database, thread=str(number)
            ) as plan:
                allowed[plan.label] = plan.may_run_again
                try:
                    toll = kill_and_resume(plan, EACH, chance)
                    killed += len(toll.again)
                    again[plan.label] += toll.again
                except AssertionError as error:
                    killed += EACH
                    failures.append(str(error))
                    print(f"FAILED {error}", flush=True)
            print(f"{killed} of {options.kills} kills", file=sys.stderr)
    print(
        f"| {'worker':55} | kills | rows run again for each kill, at most | allowed "
        f"|\n|{'-' * 57}|---|---|---|"
    )
    for label in sorted(again):
        print(f"| {label:55} | {len(again[label])} | {max(again[label], default=0)} | {allowed[label]} |")
    print(f"{killed} kills, {len(failures)} failures")
    sys.exit(len(failures) > 0)


if __name__ == "__main__":
    main()
