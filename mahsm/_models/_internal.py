"""Names of models and providers for the `mahsm` command, which are not public."""

from mahsm._models._names import default as default
from mahsm._models._names import full as full
from mahsm._models._providers import check as check_provider
from mahsm._models._providers import known as known_providers
from mahsm._models._providers import needs_key as needs_key
from mahsm._models._providers import of as provider_of
from mahsm._models._providers import variables as variables_of

__all__ = [
    "check_provider",
    "default",
    "full",
    "known_providers",
    "needs_key",
    "provider_of",
    "variables_of",
]
