"""Whatever is drawn, `vmap` gives what a plain loop gives, within its bounds, and leaves nothing behind."""

import pytest
from hypothesis import given

from tests.model.case import MODES, Case
from tests.model.checking import check
from tests.model.draws import cases
from tests.model.profile import model


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", MODES)
def test_vmap_is_a_loop(mode: str) -> None:
    @model(50)
    @given(case=cases(mode))
    def example(case: Case) -> None:
        check(case)

    example()
