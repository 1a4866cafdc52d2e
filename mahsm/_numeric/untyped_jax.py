"""JAX, as something of unknown type: the types of its functions are partly unknown, and every call would need
a cast.
"""

from typing import Any

import jax as _jax
import jax.extend as _extend

jax: Any = _jax
jax.extend = _extend  # which it is anyhow, once it is imported
