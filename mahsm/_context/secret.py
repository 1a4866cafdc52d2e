"""`Secret`: a string that no output shows."""

import hmac
import re
from typing import Any, Final, NoReturn, Self, final

from mahsm._common import MASK

_NAME = re.compile(
    r"(?:^|_)(?:api_?key|access_?key|secret|secret_?key|client_?secret|(?:access|api|auth|bearer)_?token"
    r"|password|passphrase)$",
    re.IGNORECASE,
)


@final
class Secret:
    """A string that `repr`, `str`, `format`, logs and tracebacks show as `***`.

    It cannot be pickled, and a copy is the object itself. Two secrets are equal if their strings are.

    Args:
        value: The string, such as an API key.

    Examples:
        >>> key = Secret("sk-123")
        >>> print(key, f"{key:>5}", [key])
        ***   *** [Secret('***')]
        >>> key.get_secret_value()
        'sk-123'
    """

    __slots__: Final = ("_value",)
    _value: str

    def __init__(self, value: str) -> None:
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"Secret: a value of type {type(value).__name__!r}; expected a string.")
        object.__setattr__(self, "_value", value)

    def get_secret_value(self) -> str:
        """Return the string."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({MASK!r})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a Secret cannot be changed; create another one.")

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __getstate__(self) -> None:
        """Return no state: it would have the string."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a Secret cannot be pickled, since the pickle would hold the credential; let the other process "
            "look it up in its own context, environment or files."
        )


def is_secret(path: tuple[object, ...]) -> bool:
    """Return whether a key holds a credential: below `credentials`, or as `providers.openai.api_key`."""
    top = path[0]
    if top == "credentials":
        return True
    return top in ("providers", "models") and _NAME.search(str(path[-1])) is not None
