"""Exports of `mahsm.limits` for edges, nodes and tests."""

from mahsm.limits._admission import Admission as Admission
from mahsm.limits._admission import Limited as Limited
from mahsm.limits._admission import admit as admit
from mahsm.limits._registry import define as define
from mahsm.limits._registry import is_defined as is_defined
from mahsm.limits._registry import limits_on as limits_on
from mahsm.limits._registry import resolved as resolved
from mahsm.limits._registry import shared as shared

__all__ = ["Admission", "Limited", "admit", "define", "is_defined", "limits_on", "resolved", "shared"]
