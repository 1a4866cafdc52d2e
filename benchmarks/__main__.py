"""Run a scenario: `python -m benchmarks fanout`; or compare results."""

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks import compare

SCENARIOS = {
    name: name
    for name in (
        "cpu",
        "fanout",
        "limits",
        "branches",
        "jit",
        "tracing",
        "xcs",
        "compose",
        "models",
        "streams",
        "scale",
        "batch",
        "learn",
    )
} | {"dspy": "dspy_modules"}
"""Their files."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS, nargs="?")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it runs; the figures mean nothing"
    )
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("OLD", "NEW"), help="show what moved between two results"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="fail if a ratio of CPU is by a quarter worse than the committed one",
    )
    parser.add_argument("--part", help="of learn: run and print this part alone, and keep nothing")
    options = parser.parse_args()
    if options.compare:
        return compare.compare(*options.compare)
    if options.check:
        return compare.check()
    if options.scenario is None:
        parser.error("the scenario is missing")
    if options.part and options.scenario != "learn":
        parser.error("--part is for learn")
    part = {"part": options.part} if options.part else {}
    scenario = importlib.import_module(f"benchmarks.{SCENARIOS[options.scenario]}")
    return scenario.main(quick=options.quick, **part)


if __name__ == "__main__":
    sys.exit(main())
