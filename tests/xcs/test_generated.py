"""Made-up programs give jitted what they give plainly."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mahsm import xcs
from tests.xcs import generated


@given(st.integers(0, 10**9))
def test_a_made_up_program_gives_the_same_jitted(seed: int) -> None:
    """Calls after one that fails may have been made already; none is missing, and else none more."""
    program = generated.made_up(seed)
    wanted, calls = generated.outcome(program, "hello q")
    found, made = generated.outcome(xcs.jit(program), "hello q")
    assert found == wanted
    assert not Counter(calls) - Counter(made)
    if wanted.startswith("(") and not any("boom" in call for call in calls) and "caught" not in wanted:
        assert made == calls
