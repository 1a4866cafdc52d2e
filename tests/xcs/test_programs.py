"""Programs give jitted what they give plainly: the result or the error, and the calls of steps."""

from typing import Any

import pytest

from mahsm import xcs
from tests.xcs import programs


def outcome(function: Any, q: str) -> tuple[Any, list[str]]:
    programs.made.clear()
    programs.STORE.clear()
    try:
        found: Any = ("result", function(q))
    except Exception as error:  # noqa: BLE001
        found = ("error", type(error), str(error))
    return found, sorted(programs.made)


@pytest.mark.parametrize("name", programs.programs)
def test_a_program_gives_the_same_jitted(name):
    plain = programs.programs[name]
    jitted = xcs.jit(plain)
    for q in ("hello", "another one", ""):
        wanted, calls = outcome(plain, q)
        found, made = outcome(jitted, q)
        assert found == wanted
        assert repr(found) == repr(wanted)
        if wanted[0] == "result" or "error_" not in name:
            assert made == calls or wanted[0] == "error"
    assert "__xcs_call__" in jitted.source
