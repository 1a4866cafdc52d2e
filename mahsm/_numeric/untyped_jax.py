"""JAX typed as `Any`: its functions are only partly typed, so that each call would need a cast."""

from typing import Any

import jax as _jax
import jax.extend as _extend

jax: Any = _jax
# The import has set this attribute already; the line keeps the import in use.
jax.extend = _extend
