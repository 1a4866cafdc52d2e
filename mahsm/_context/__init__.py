"""Settings and credentials of the running code.

- `secret`          `Secret`: a string that no output shows
- `values`          nested values: copied at the border, laid over each other, read by dotted keys
- `layer`           `Layer`: settings of a context over those of its parent, immutable
- `here`            the current layer, in a context variable
- `settings`        looking up a setting: the context, the environment, files
- `credentials`     looking up a credential, when a call needs it
- `environment`     settings from environment variables
- `system_keyring`  credentials in the system's keyring
- `files`           where files are, and what is in them now
- `guard`           opening files: owners, modes, links and sizes are checked
- `document`        YAML, of which only plain values are read
- `saving`          what of a layer goes into which file
- `writing`         writing files under a lock, as a whole or not at all
- `_internal`       names for `mahsm.context` and the `mahsm` command

YAML and the keyring are imported when a file or a credential is first looked up.
"""

from mahsm._context.credentials import credential as credential
from mahsm._context.credentials import is_hidden as is_hidden
from mahsm._context.credentials import require_credential as require_credential
from mahsm._context.credentials import where as where
from mahsm._context.secret import Secret as Secret
from mahsm._context.settings import config as config
from mahsm._context.settings import sets_any as sets_any
from mahsm._context.values import copied_out as copied_out

__all__ = [
    "Secret",
    "config",
    "copied_out",
    "credential",
    "is_hidden",
    "require_credential",
    "sets_any",
    "where",
]
