"""Credentials in the system's keyring, if the package `keyring` is installed."""

import importlib
import warnings
from typing import Any, Final

SERVICE: Final = "mahsm"
"""The name of the service: `keyring set mahsm openai_api_key` stores a credential."""


def password(field: str) -> str | None:
    """Return a credential of the keyring; None if it has none, or there is no keyring."""
    try:
        keyring: Any = importlib.import_module("keyring")
    except ImportError:
        return None
    try:
        stored: str | None = keyring.get_password(SERVICE, field)
    except keyring.errors.NoKeyringError:
        return None
    except keyring.errors.KeyringError as error:
        warnings.warn(
            f"the system's keyring cannot be read: {type(error).__name__}. Unlock it, or set "
            f"{field.upper()}.",
            stacklevel=2,
        )
        return None
    return (stored or "").strip() or None
