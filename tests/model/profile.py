"""How examples are run in the test suite: few, and the same ones each time."""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings

TIMES = int(os.environ.get("MAHSM_MODEL_TIMES", "1"))
"""How many times as many examples as usual."""


def model(examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=examples * TIMES,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        phases=[Phase.explicit, Phase.generate],  # an example that hangs is not worth making smaller
        suppress_health_check=list(HealthCheck),
    )
