"""Exports of `operators` for `GraphModule` and `compose`."""

from mahsm.operators._modules import modules_in as modules_in
from mahsm.operators._signatures import Parameters as Parameters
from mahsm.operators._signatures import parameters_of as parameters_of
from mahsm.operators._signatures import specs_of as specs_of
from mahsm.operators._threads import in_thread as in_thread
from mahsm.operators._threads import traced as traced
from mahsm.operators._threads import with_settings as with_settings

__all__ = ["Parameters", "in_thread", "modules_in", "parameters_of", "specs_of", "traced", "with_settings"]
