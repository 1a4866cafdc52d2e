"""`mahsm doctor`: what is installed and set up."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial

from mahsm.cli import _checks, _traces
from mahsm.cli._checks import Check
from mahsm.cli._outcome import Flag, Json, Output
from mahsm.errors import MahsmError

MARKS = {"ok": "ok", "missing": "-", "broken": "BROKEN"}


def doctor(*, offline: Flag = False, json: Json = False) -> Output:
    """Check what is installed and set up, and tell how to get the rest.

    Args:
        offline: Ask no server.
    """
    from rich.table import Table
    from rich.text import Text

    found = list(_all(offline=offline))
    table = Table(box=None, pad_edge=False, show_header=False)
    for each in found:
        table.add_row(*(Text(cell) for cell in (MARKS[each.state], each.name, each.found)))
    hints = [f"{each.name}: {each.hint}" for each in found if each.hint]
    is_broken = any(each.state == "broken" for each in found)
    document = {"ok": not is_broken, "checks": [asdict(each) for each in found]}
    return Output(document, [table, *([""] if hints else []), *hints], json, code=int(is_broken))


def _all(*, offline: bool) -> Iterable[Check]:
    groups: dict[str, Callable[[], Iterable[Check]]] = {
        "versions": _checks.versions,
        "JAX devices": _checks.devices,
        # First of those that read files: reading repairs their modes.
        "settings": _checks.home,
        "default model": _checks.model,
        "credentials": _checks.credentials,
        "rate limits": _checks.limits,
        "DSPy's cache": _checks.cache,
        "Langfuse": partial(_traces.langfuse, offline=offline),
    }
    for name, group in groups.items():
        try:
            yield from group()
        except MahsmError as error:
            yield Check(name, "broken", str(error), "mahsm configure path shows the folder of the files")
