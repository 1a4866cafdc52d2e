"""Saves again and again, for tests that kill it: `python -m tests.context.saver NAME TIMES`."""

import os
import sys

from mahsm.context import create_context


def main(name: str, times: int) -> None:
    for number in range(times):
        padding = f"{number} " * 300
        create_context(
            saved={name: {"number": number, "again": number, "padding": padding}},
            credentials={f"{name}_api_key": f"sk-{name}-{number}"},
        ).save()
        print(number, flush=True)


def main_forked(name: str) -> None:
    """Save in a new process for each line of stdin, until it is killed; the imports are made once."""
    for _ in sys.stdin:
        process = os.fork()
        if process == 0:
            main(name, 1_000_000)
        print("process", process, flush=True)
        os.waitpid(process, 0)
        print("killed", flush=True)


if __name__ == "__main__":
    main_forked(sys.argv[1]) if sys.argv[2] == "forked" else main(sys.argv[1], int(sys.argv[2]))
