"""Programs give jitted what they give plainly: the result or the error, and the calls of steps."""

from typing import Any

import pytest

from mahsm import xcs
from tests.xcs import async_programs, programs, programs_of_parts


def outcome(function: Any, q: str) -> tuple[Any, list[str]]:
    programs.made.clear()
    programs.STORE.clear()
    try:
        found: Any = ("result", function(q))
    except Exception as error:  # noqa: BLE001
        found = ("error", type(error), str(error))
    return found, sorted(programs.made)


__all__ = ["programs_of_parts"]  # it adds to the programs


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


async def async_outcome(function: Any, q: str) -> tuple[Any, list[str]]:
    programs.made.clear()
    try:
        found: Any = ("result", await function(q))
    except Exception as error:  # noqa: BLE001
        found = ("error", type(error), str(error))
    return found, sorted(programs.made)


@pytest.mark.parametrize("name", async_programs.programs)
async def test_an_async_program_gives_the_same_jitted(name):
    plain = async_programs.programs[name]
    jitted = xcs.jit(plain)
    for q in ("hello", "another one", ""):
        wanted, calls = await async_outcome(plain, q)
        found, made = await async_outcome(jitted, q)
        assert repr(found) == repr(wanted)
        assert made == calls
