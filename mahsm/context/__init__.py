"""Settings and credentials: `get_context`, `create_context`, `with_context`, `get_config`, `set_config`.

- `_handle`     `Context`: a handle of a context
- `_functions`  the functions of this package
- `_following`  DSPy's language model follows a block that sets models
- `_migration`  `migrate`: settings of `~/.ember`
"""

from mahsm._context import Secret as Secret
from mahsm.context._functions import create_context as create_context
from mahsm.context._functions import get_config as get_config
from mahsm.context._functions import get_context as get_context
from mahsm.context._functions import set_config as set_config
from mahsm.context._functions import with_context as with_context
from mahsm.context._handle import Context as Context
from mahsm.context._migration import migrate as migrate

__all__ = [
    "Context",
    "Secret",
    "create_context",
    "get_config",
    "get_context",
    "migrate",
    "set_config",
    "with_context",
]
