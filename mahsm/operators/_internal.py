"""Exports of `operators` for `GraphModule`."""

from mahsm.operators._modules import modules_in as modules_in

__all__ = ["modules_in"]
