"""JAX, as something of unknown type: the types of its functions are partly unknown, and every call would need a cast."""

from typing import Any

import jax as _jax
import jax.extend  # `jax.extend` is no attribute before

jax: Any = _jax
