"""Names of this package that `mahsm.learn` imports."""

from mahsm.graph._find import walked as walked
from mahsm.graph._on_examples import OnExamples as OnExamples

__all__ = ["OnExamples", "walked"]
