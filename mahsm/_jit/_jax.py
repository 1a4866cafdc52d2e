"""JAX, as something of unknown type: the types of its functions are partly unknown, and every call would need a cast."""

from typing import Any

import jax as _jax

jax: Any = _jax
