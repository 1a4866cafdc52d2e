"""The page `docs/reference/cli.md`: a head written by hand, and a reference that is made of the commands.

`python -m mahsm.cli._reference docs/reference/cli.md` writes the reference again.
"""

import sys
from pathlib import Path

from mahsm.cli._commands import app

START = "## Reference\n"
"""The heading of the part that is made of the commands."""


def page(present: str) -> str:
    """Return the page with its present head, and a reference of the present commands.

    Args:
        present: The present page.
    """
    head = present.partition(START)[0]
    # Without the page of `mahsm` itself, which lists what follows.
    commands = (
        app()
        .generate_docs(heading_level=2, usage_name="mahsm")
        .partition("\n### ")[2]
        .replace("```console", "```sh")
    )
    lines = [line.rstrip() for line in f"### {commands}".splitlines()]
    return "\n".join([f"{head}{START}", *lines]).rstrip("\n") + "\n"


if __name__ == "__main__":
    file = Path(sys.argv[1])
    file.write_text(page(file.read_text()))
