"""Whether JAX traces a function here. JAX is not imported: a function that it traces has imported it."""

import sys
from typing import Any


def traced() -> bool:
    """Return whether JAX traces or transforms a function in this thread."""
    jax: Any = sys.modules.get("jax")
    if jax is None:
        return False
    # JAX has no public function for this. A later JAX may lack it; then jit is seen, but not grad or vmap.
    is_clean = getattr(sys.modules.get("jax._src.core"), "trace_state_clean", None)
    return isinstance(jax.numpy.add(0, 0), jax.core.Tracer) if is_clean is None else not is_clean()
