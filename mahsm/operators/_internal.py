"""What of operators a `GraphModule` and compositions use."""

from mahsm.operators._modules import modules_in as modules_in
from mahsm.operators._signatures import Parameters as Parameters
from mahsm.operators._signatures import parameters_of as parameters_of
from mahsm.operators._threads import blocking as blocking
from mahsm.operators._threads import in_thread as in_thread

__all__ = ["Parameters", "blocking", "in_thread", "modules_in", "parameters_of"]
