"""Run a scenario: `python -m benchmarks fanout`."""

import argparse
import importlib
import sys

SCENARIOS = {
    name: name
    for name in (
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
    )
} | {"dspy": "dspy_modules"}
"""Their files."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it runs; the figures mean nothing"
    )
    options = parser.parse_args()
    return importlib.import_module(f"benchmarks.{SCENARIOS[options.scenario]}").main(quick=options.quick)


if __name__ == "__main__":
    sys.exit(main())
