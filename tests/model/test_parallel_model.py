"""Whatever is drawn, `parallel` gives what its branches give one after the other, and leaves nothing
behind."""

import pytest
from hypothesis import given

from tests.model.branch_draws import branch_cases
from tests.model.branches import BranchCase
from tests.model.checking import check_branches
from tests.model.profile import model


@pytest.mark.timeout(1800)
@model(100)
@given(case=branch_cases())
def test_branches_are_a_sequence(case: BranchCase) -> None:
    check_branches(case)
