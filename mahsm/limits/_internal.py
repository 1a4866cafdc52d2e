"""Exports of `mahsm.limits` for edges, nodes and tests."""

from mahsm.limits._admission import Admission as Admission
from mahsm.limits._admission import Limited as Limited
from mahsm.limits._admission import admit as admit
from mahsm.limits._registry import known as known
from mahsm.limits._registry import limits_on as limits_on
from mahsm.limits._registry import resolved as resolved

__all__ = ["Admission", "Limited", "admit", "known", "limits_on", "resolved"]
