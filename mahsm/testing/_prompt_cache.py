"""`PromptCache`: input tokens that a provider has seen before, by their prefix."""

import hashlib
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mahsm.testing._anthropic_messages import prefix_of
from mahsm.testing._call import Call
from mahsm.testing._wire import Tokens, Vendor

_CHARACTERS = 4
"""Characters of a token, as everywhere in this package."""

_LOOKBACK = 20
"""Blocks before a `cache_control` that Anthropic compares with earlier prefixes."""


@dataclass(frozen=True)
class PromptCache:
    """A prompt cache of a `ModelServer`: input tokens of a prefix that it has answered before are cached.

    For OpenAI's APIs, the longest prefix counts that an earlier request of the same model has, in blocks of
    128 tokens and from 1,024 tokens on. For Anthropic's, only prefixes count whose end `cache_control` marks.
    A prefix is there once a request that has it is answered, that is after its latency: requests that are
    sent at the same time all miss, while those of a batch job are answered one after the other. A token is
    four characters. The cached tokens of an answer are in its
    usage.

    Args:
        minimum: Tokens of the shortest prefix that is kept.
        block: Tokens by which prefixes of OpenAI's APIs grow.
        ttl: Seconds until a prefix is dropped that is not read again.
        batches: Cache the requests of batch jobs, too.
        clock: The clock, in seconds.

    Raises:
        ValueError: if `minimum`, `block` or `ttl` is not > 0.

    Example:
        >>> import dspy
        >>> from mahsm.testing import ModelServer, PromptCache
        >>> ask = dspy.Predict("document, question -> answer")
        >>> with ModelServer({"answer": "yes"}, prompt_cache=PromptCache()) as server:
        ...     lm = server.lm()
        ...     with dspy.context(lm=lm):
        ...         for question in ("why?", "how?"):
        ...             _ = ask(document="word " * 2_000, question=question)
        >>> [charge.cached_tokens >= 1_024 for charge in server.bill]
        [False, True]
    """

    minimum: int = 1024
    block: int = 128
    ttl: float = 300.0
    batches: bool = True
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        for name in ("minimum", "block", "ttl"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"PromptCache: {name}={value!r}; expected a number > 0.")


Prefix: TypeAlias = tuple[bytes, int]
"""The key of a prefix, and its length in tokens."""


@dataclass(frozen=True)
class Cached:
    """What a cache has of a request, and what it will keep.

    Attributes:
        tokens: Tokens of the longest prefix that is in the cache.
        write: The prefixes to keep once the request is answered, in order of length.
        charged: The provider charges for what is written.
    """

    tokens: int
    write: list[Prefix]
    charged: bool

    def of(self, given: Tokens) -> Tokens:
        """Return the tokens of the request with those that are cached."""
        cached, written = min(self.tokens, given.input), 0
        if self.charged and self.write:
            written = max(0, min(self.write[-1][1], given.input) - cached)
        return Tokens(given.input, given.output, cached, written)


class CachedPrefixes:
    """The prefixes that a server has cached. Thread-safe."""

    def __init__(self, settings: PromptCache) -> None:
        self._settings = settings
        self._kept: dict[bytes, float] = {}
        self._lock = threading.Lock()

    def read(self, vendor: Vendor, call: Call) -> Cached:
        """Return what the cache has of a request now."""
        if call.batch is not None and not self._settings.batches:
            return Cached(0, [], charged=False)
        read, write = self._marked(call) if vendor == "anthropic" else self._automatic(call)
        now = self._settings.clock()
        with self._lock:
            found = [size for key, size in read if self._kept.get(key, now - 1.0) >= now]
        return Cached(max(found, default=0), write, charged=vendor == "anthropic")

    def write(self, cached: Cached) -> None:
        """Keep the prefixes of a request that is answered."""
        until = self._settings.clock() + self._settings.ttl
        with self._lock:
            self._kept.update((key, until) for key, _ in cached.write)

    def _automatic(self, call: Call) -> tuple[list[Prefix], list[Prefix]]:
        """Return the prefixes to look up and to keep: all, block by block."""
        text = json.dumps([call.model, call.body.get("tools")]) + json.dumps(call.messages)
        size = self._settings.block * _CHARACTERS
        digest, found = hashlib.blake2b(digest_size=16), list[Prefix]()
        for end in range(size, len(text) + 1, size):
            digest.update(text[end - size : end].encode())
            if (tokens := end // _CHARACTERS) >= self._settings.minimum:
                found.append((digest.copy().digest(), tokens))
        return found, found

    def _marked(self, call: Call) -> tuple[list[Prefix], list[Prefix]]:
        """Return the prefixes to look up and to keep: those near a mark, and those that end with one."""
        digest, length = hashlib.blake2b(json.dumps(call.model).encode(), digest_size=16), 0
        ends: list[Prefix] = []
        marks: list[int] = []
        for block in prefix_of(call.body):
            text = json.dumps({name: value for name, value in block.items() if name != "cache_control"})
            digest.update(text.encode())
            length += len(text)
            ends.append((digest.copy().digest(), length // _CHARACTERS))
            if block.get("cache_control"):
                marks.append(len(ends))
        if ends and call.body.get("cache_control"):
            marks.append(len(ends))
        near = {index for mark in marks for index in range(max(0, mark - _LOOKBACK), mark)}
        long = [ends[mark - 1] for mark in marks if ends[mark - 1][1] >= self._settings.minimum]
        return [ends[index] for index in near], long
