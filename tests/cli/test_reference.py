"""`docs/reference/cli.md` is made of the commands."""

from pathlib import Path

from mahsm.cli._reference import START, page

FILE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_page_has_the_present_commands() -> None:
    present = FILE.read_text()
    assert present == page(present), "run: python -m mahsm.cli._reference docs/reference/cli.md"


def test_the_head_stays() -> None:
    made = page(f"# Mine\n\n{START}old\n")
    assert made.startswith(f"# Mine\n\n{START}\n### mahsm setup\n")
    assert "old\n" not in made
