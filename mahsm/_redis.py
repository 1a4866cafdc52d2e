"""What processes share through Redis: servers by their URL, which never show a password, and scripts."""

import asyncio
import logging
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from mahsm._common import learn_secret, redacted, shown
from mahsm._waiting import tasks

_log = logging.getLogger("mahsm.limits")

_PATIENCE = 2.0
"""Seconds in which Redis has to connect, and to answer; options of the URL take precedence."""

_PASSING = frozenset({"MISCONF", "BUSY", "LOADING", "NOREPLICAS", "READONLY", "OOM", "MASTERDOWN"})
"""Errors of Redis that pass, by their codes."""

_SCHEMES = ("redis", "rediss", "unix")


class Down(Exception):
    """Redis cannot be reached now, or cannot write."""


class Refused(Exception):
    """Redis refuses the command, and waiting does not help: a wrong password, or rights that are missing."""


def address_of(url: object, argument: str, error: type[Exception]) -> str:
    """Check a URL of Redis, and return it without user, password and options, for messages.

    Args:
        url: The URL.
        argument: The name of the argument, for errors, such as `"limits.share"`.
        error: The type of the errors.

    Raises:
        ImportError: if redis-py is missing.
    """
    if not isinstance(url, str):
        raise error(f"{argument}: {shown(url)}; expected a URL such as 'redis://localhost:6379/0'.")
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES:
        # The URL is not shown: without its scheme, a password in it could not be found.
        raise error(
            f"{argument}: the URL has the scheme {parts.scheme!r}; expected redis://, rediss:// (TLS) or "
            "unix://, such as 'redis://localhost:6379/0'."
        )
    try:
        from redis import connection
    except ImportError:
        raise ImportError(
            f"{argument} needs redis-py, which is not installed. Install it with: pip install 'mahsm[redis]'"
        ) from None
    parse_url: Any = getattr(connection, "parse_url")  # noqa: B009  its parameter has no type
    if parts.scheme == "unix" and not parts.path:
        raise error(
            f"{argument}: the unix:// URL has no path; expected three slashes: 'unix:///run/redis.sock'."
        )
    broken = error(
        f"{argument}: the {parts.scheme}:// URL cannot be read; expected "
        f"'{parts.scheme}://user:password@host:port/0', in which special characters of the password are "
        "percent-encoded, such as %2F for a slash."
    )
    # An "@" behind the host means that the password has a "/", "?" or "#".
    if parts.scheme != "unix" and "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise broken
    try:
        found: dict[str, Any] = dict(parse_url(url))
    except (ValueError, TypeError):
        raise broken from None
    _check_options(url, parts.scheme, argument, error)
    if password := found.get("password"):
        learn_secret(unquote(str(password)))
    if parts.scheme == "unix":
        return f"unix://{found.get('path', '')}"
    return f"{parts.scheme}://{found.get('host', 'localhost')}:{found.get('port', 6379)}/{found.get('db', 0)}"


def may_hold_password(url: str) -> bool:
    """Return whether a URL may hold a password, so that it must not leave the process."""
    return "@" in url or "password" in unquote(url)


def _check_options(url: str, scheme: str, argument: str, error: type[Exception]) -> None:
    """Make a connection, and do not open it: an option that it does not know would fail each call."""
    from redis.asyncio import ConnectionPool
    from redis.exceptions import RedisError

    try:
        ConnectionPool.from_url(url).make_connection()
    except (TypeError, ValueError, RedisError):
        raise error(
            f"{argument}: the {scheme}:// URL has an option that redis-py's connections do not take; "
            "expected options such as '?socket_timeout=5'."
        ) from None


def in_key(name: str) -> str:
    """Return a name as part of a key: without braces, which mean something to a cluster."""
    return quote(name, safe="/:. -", errors="surrogatepass")


@dataclass(frozen=True)
class Script:
    """A script in Lua that Redis runs as one step."""

    text: str

    @property
    def digest(self) -> str:
        return sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@dataclass
class Server:
    """One Redis, for all that this process shares there. Its methods are for `tasks.redis_loop`.

    Attributes:
        address: Its URL, without the password.
        is_down: True if it could not be reached when it was last asked.
    """

    address: str
    url: str = field(repr=False)
    is_down: bool = False
    _client: Any = field(default=None, repr=False)

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any], waits: str) -> Any:
        """Run a script, which takes effect once or, if an error is raised, perhaps.

        Args:
            script: The script.
            keys: The keys that it uses.
            args: Its arguments.
            waits: What happens while Redis is down, for the log.

        Raises:
            Down: if Redis cannot be reached.
            Refused: if Redis refuses the command.
        """
        from redis.exceptions import NoScriptError, RedisError

        client = self._connected()
        try:
            try:
                answer = await client.evalsha(script.digest, len(keys), *keys, *args)
            except NoScriptError:
                answer = await client.eval(script.text, len(keys), *keys, *args)
        except (RedisError, OSError) as error:
            if _is_refusal(error):
                raise Refused(f"{self.address} refuses: {redacted(str(error))}") from None
            self._say_down(error, waits)
            raise Down(f"{self.address} cannot be reached ({type(error).__name__})") from None
        if self.is_down:
            self.is_down = False
            _log.warning("%s can be reached again.", self.address)
        return answer

    def _connected(self) -> Any:
        if self._client is None:
            from redis.asyncio import Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff

            # A command that is sent again could take effect twice.
            self._client = Redis.from_url(
                self.url,
                socket_timeout=_PATIENCE,
                socket_connect_timeout=_PATIENCE,
                retry=Retry(NoBackoff(), 0),
                decode_responses=True,
            )
        return self._client

    def _say_down(self, error: BaseException, waits: str) -> None:
        if not self.is_down:
            self.is_down = True
            _log.warning("%s cannot be reached (%s). %s", self.address, type(error).__name__, waits)

    async def close(self) -> None:
        """Close the connections that are idle; the next command opens new ones."""
        if self._client is not None:
            await self._client.connection_pool.disconnect(inuse_connections=False)


def _is_refusal(error: BaseException) -> bool:
    from redis import exceptions as kinds

    if isinstance(error, kinds.AuthenticationError | kinds.AuthorizationError):
        return True
    passing = (
        kinds.ReadOnlyError,
        kinds.OutOfMemoryError,
        kinds.MasterDownError,
        kinds.TryAgainError,
        kinds.ClusterDownError,
    )
    if not isinstance(error, kinds.ResponseError) or isinstance(error, passing):
        return False
    # Before Redis 7, what a command in a script says is in the middle.
    says = re.findall(r"(?:^|[ -])([A-Z]{3,})\b", str(error))
    return not _PASSING.intersection(says)


class _Servers:
    """The servers of this process, by URL."""

    def __init__(self) -> None:
        self._kept: list[Any] = []
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        # A fork must not close the connections of its parent, not even when they are collected.
        self._kept.append(getattr(self, "_servers", None))
        self._lock = threading.Lock()
        self._servers: dict[str, Server] = {}

    def of(self, url: str, address: str) -> Server:
        with self._lock:
            return self._servers.setdefault(url, Server(address, url))


_servers = _Servers()
server_of = _servers.of
"""Returns the server of a URL, which `address_of` has checked."""


def close(server: Server) -> None:
    """Close the connections of a server that are idle, and wait for it."""
    asyncio.run_coroutine_threadsafe(server.close(), tasks.redis_loop()).result()
