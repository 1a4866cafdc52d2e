"""Saves again and again, for tests that kill it: `python -m tests.context.saver NAME TIMES`."""

import sys

from mahsm.context import create_context


def main(name: str, times: int) -> None:
    for number in range(times):
        padding = f"{number} " * 2_000
        create_context(
            saved={name: {"number": number, "again": number, "padding": padding}},
            credentials={f"{name}_api_key": f"sk-{name}-{number}"},
        ).save()
        print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
