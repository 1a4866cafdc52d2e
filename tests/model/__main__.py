"""Run many examples, and say how many were right: `python -m tests.model --examples 20000 --seed 1 --jobs 2`.

Each few hundred have a process of their own, so that one that hangs costs no others. `--case "Case(size=3)"`
runs one; `--where "case.saver == 'sqlite'"` runs only those that an expression holds for.
"""

import argparse
import itertools
import json
import logging
import os
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests import watchdog
from tests.model import branches, case
from tests.model.branch_draws import branch_cases
from tests.model.checking import check, check_branches
from tests.model.draws import cases

EACH = 250
"""Examples for each process."""

KINDS: dict[str, tuple[Any, Any]] = {"vmap": (cases(), check), "parallel": (branch_cases(), check_branches)}


def child(kind: str, examples: int, number: int, where: str) -> None:
    """Run examples, and write a line for each failure and one for the count."""
    strategy, judge = KINDS[kind]
    strategy = strategy.filter(lambda drawn: eval(where, {"case": drawn}))
    ended = 0

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(drawn=strategy)
    def example(drawn: Any) -> None:
        nonlocal ended
        try:
            judge(drawn)
        except BaseException as error:  # noqa: BLE001  it is counted
            where = "".join(traceback.format_exception(error)[-25:])
            print(
                json.dumps(
                    {"case": repr(drawn), "error": f"{type(error).__name__}: {error}", "where": where}
                ),
                flush=True,
            )
        ended += 1
        if watchdog.hung:
            print(json.dumps({"ended": ended}), flush=True)
            os._exit(1)

    example()
    print(json.dumps({"ended": ended}), flush=True)
    os._exit(0)


def run_child(kind: str, examples: int, number: int, where: str) -> tuple[int, list[dict[str, str]]]:
    command = [
        sys.executable,
        "-m",
        "tests.model",
        "--child",
        kind,
        "--examples",
        str(examples),
        "--seed",
        str(number),
    ]
    command += ["--where", where]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    failures = [line for line in lines if "case" in line]
    counts = [line["ended"] for line in lines if "ended" in line]
    if not counts:
        failures.append(
            {"case": f"seed {number}", "error": f"the process has ended with {done.returncode}", "where": ""}
        )
    return sum(counts), failures


def run_many(kind: str, options: argparse.Namespace) -> int:
    """Run them, and print each failure; the number of those."""
    began, ended, failed = time.monotonic(), 0, 0
    numbers = itertools.count(options.seed * 1_000_000)
    with ThreadPoolExecutor(options.jobs) as pool:
        while ended < options.examples:
            sizes = [min(EACH, options.examples - ended)] * options.jobs
            for count, failures in pool.map(
                lambda size: run_child(kind, size, next(numbers), options.where), sizes
            ):
                ended += count
                failed += len(failures)
                for failure in failures:
                    shown = failure["where"] if options.full else failure["error"][:400]
                    print(f"{failure['case']}\n    {shown}", flush=True)
                if not count:
                    return failed
            print(f"{kind}: {ended - failed} of {ended} right, {time.monotonic() - began:.0f} s", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--kind", choices=sorted(KINDS), help="only these")
    parser.add_argument("--where", default="True", help="only cases that this expression of `case` holds for")
    parser.add_argument("--full", action="store_true", help="print where each failure came from")
    parser.add_argument("--case", help="run this one, as it is printed")
    parser.add_argument("--child", choices=sorted(KINDS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        one = eval(options.case, {**vars(case), **vars(branches)})
        (check_branches if isinstance(one, branches.BranchCase) else check)(one)
        print("right")
        os._exit(0)
    if options.child:
        logging.disable(logging.CRITICAL)
        child(options.child, options.examples, options.seed, options.where)
    kinds = [options.kind] if options.kind else sorted(KINDS)
    sys.exit(sum(run_many(kind, options) for kind in kinds) > 0)


if __name__ == "__main__":
    main()
