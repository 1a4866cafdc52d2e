"""How the limits of this process are shared with others."""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, cast, get_args

from mahsm import _redis
from mahsm._common import shown
from mahsm.errors import LimitError
from mahsm.limits._line import Rates
from mahsm.limits._shared import IfDown, SharedBucket
from mahsm.limits._shared_quota import SharedQuota

_WAITS: dict[IfDown, str] = {
    "wait": "Calls that share a limit wait until it is back.",
    "local": "Each process takes its part of the rate until it is back.",
    "raise": "Calls that share a limit fail until it is back.",
}


@dataclass(frozen=True)
class Sharing:
    """How the limits of this process are shared.

    Attributes:
        address: The URL, without user and password.
        if_down: What happens while Redis is down.
        url: The URL.
    """

    address: str
    if_down: IfDown
    url: str = field(repr=False)

    @classmethod
    def of(cls, url: object, if_down: object) -> "Sharing":
        """Check the arguments of `share`.

        Raises:
            LimitError: if they are invalid.
            ImportError: if redis-py is missing.
        """
        address = _redis.address_of(url, "limits.share", LimitError)
        if if_down not in get_args(IfDown):
            expected = ", ".join(map(repr, get_args(IfDown)))
            raise LimitError(f"limits.share: if_down={shown(if_down)}; expected one of {expected}.")
        return cls(address, cast("IfDown", if_down), cast("str", url))

    @property
    def server(self) -> _redis.Server:
        return _redis.server_of(self.url, self.address)

    def bucket(self, name: str, provider: str, key: object, rates: Rates) -> SharedBucket:
        """Make the bucket of a provider and key.

        Raises:
            LimitError: if the key may differ between processes.
        """
        text = "" if key is None else _digest(provider, key)
        quota = SharedQuota(self.server, provider, text, rates, _WAITS[self.if_down])
        return SharedBucket(rates, quota, self.if_down, name, provider)


def _digest(provider: str, key: object) -> str:
    """Return a text that stands for a key in all processes, and does not show it: it may be a secret."""
    if not _is_plain(key):
        raise LimitError(
            f"the limit of {provider!r} is shared, and its key returned a {type(key).__name__}; expected a "
            "string, a number, or a tuple of these, which are the same in all processes."
        )
    return blake2b(repr(_plain(key)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _plain(key: object) -> object:
    """Return one of all keys that are equal: `1`, `1.0` and `True` have one bucket in a process, too."""
    if type(key) is tuple:
        return tuple(map(_plain, cast("tuple[Any, ...]", key)))
    if type(key) is bool or (type(key) is float and key.is_integer()):
        return int(key)
    return key


def _is_plain(key: object) -> bool:
    if type(key) is tuple:
        return all(map(_is_plain, cast("tuple[Any, ...]", key)))
    return key is None or type(key) in (str, int, float, bool, bytes)
