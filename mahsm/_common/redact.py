"""Masks secrets in strings that mahsm writes into states, checkpoints, traces and logs.

Errors of clients quote keys, headers and URLs. A substring is masked only if it has the form of a secret: the
user and password of a URL, credentials after `Authorization`, the value of a parameter with a name such as
`api_key` or `password`, the key of a known provider, or the value of an environment variable with such a
name. The rest of the string is unchanged. Credentials that were handed out to a client are masked, whatever
their form.
"""

import hashlib
import os
import re
from functools import lru_cache

MASK = "***"

_VALUE = r"[^\s\"'&,;<>(){}\[\]\\]"
_NAMES = (
    r"(?<![a-z])(?:api|access|secret|private|subscription|account)[_-]?key(?:[_-]?id)?"
    r"|(?<![a-z])(?:access|auth|refresh|session|bearer|security)[_-]?token"
    r"|(?<![a-z])client[_-]?secret|(?<![a-z])secret|(?<![a-z])password|(?<![a-z])passwd|(?<![a-z])passphrase"
)
_UNLIKE_A_WORD = rf"(?-i:(?={_VALUE}{{0,200}}[0-9])|(?={_VALUE}{{1,200}}[A-Z]))"
"""Matches before a value that contains a digit, or a capital letter after the first character."""

_ASSIGNED = r"(?<==)|(?<==[\"'])|(?<=[\"']:[\"'])|(?<=[\"']: [\"'])"
"""Matches after `name=`, `name="` or `"name": "`."""

_SCHEMES = r"(?:bearer|basic|digest|token)\b"


def _pattern(kept: str, secret: str) -> re.Pattern[str]:
    """Compile the pattern of a secret; `kept` is the part before it, which is not masked."""
    return re.compile(f"({kept}){secret}", re.IGNORECASE | re.DOTALL)


_PATTERNS: list[tuple[tuple[str, ...], re.Pattern[str]]] = [
    (("private key--",), _pattern(r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----", r".*?(?:(?=-----END )|\Z)")),
    (("://",), _pattern(r"\b[a-z][a-z0-9+.-]{0,30}://", r"[^\s/@:\"'<>]{0,200}:[^\s/\"'<>]{1,1000}(?=@)")),
    (
        ("authorization",),
        _pattern(
            rf"\bauthorization[\"']?\s{{0,4}}[:=]\s{{0,4}}[\"']?(?:{_SCHEMES}\s{{1,4}}|{_UNLIKE_A_WORD})",
            rf"(?!{_SCHEMES}){_VALUE}{{6,}}",
        ),
    ),
    (("bearer",), _pattern(r"\bbearer\s{1,4}", r"(?=[\w.~+/-]{0,200}[0-9])[\w.~+/-]{16,}=*")),
    (
        ("basic",),
        _pattern(
            r"\bbasic\s{1,4}", r"(?-i:(?=[A-Za-z+/]{0,200}[0-9])(?=[a-z0-9+/]{0,200}[A-Z]))[\w+/]{12,}=*"
        ),
    ),
    (("cookie",), _pattern(r"\bcookie[\"']?\s{0,4}[:=]\s{0,4}[\"']?", r"(?=[\w.-]{1,100}=)[^\"'\r\n]+")),
    (
        ("?", "&"),
        _pattern(
            r"[?&](?:x-amz-|x-goog-)?(?:key|token|sig|signature|auth|pwd|sas|code)=", r"[^\s&#,;)\"'<>]+"
        ),
    ),
    (
        ("key", "token", "secret", "passw", "passphrase"),
        _pattern(
            rf"(?:{_NAMES})[\"']?(?:=|\s{{0,4}}[:=]\s{{0,4}})[\"']?",
            rf"(?!None\b|True\b|False\b|null\b)(?:{_ASSIGNED}|{_UNLIKE_A_WORD}){_VALUE}{{6,}}",
        ),
    ),
    (("sk-", "pk-"), _pattern(r"\b[sp]k-", r"(?-i:(?=[\w*-]{0,200}[A-Z0-9*]))[\w*-]{8,}")),
    (("aiza",), _pattern(r"\bAIza", r"[\w-]{20,}")),
    (
        ("gh", "glpat", "hf_", "gsk_", "r8_", "pplx", "xai-", "lsv2", "k_live"),
        _pattern(
            r"\b(?:gh[pousr]_|github_pat_|glpat-|hf_|gsk_|r8_|pplx-|xai-|lsv2_[a-z]{2}_|[sr]k_live_)",
            r"[\w-]{16,}",
        ),
    ),
    (("xox",), _pattern(r"\bxox[a-z]-", r"[\w-]{8,}")),
    (("akia", "asia"), _pattern(r"(?-i:\b(?:AKIA|ASIA))", r"(?-i:[A-Z0-9]{16})\b")),
    (("eyj",), _pattern(r"(?-i:\beyJ)", r"[\w-]{8,5000}\.[\w-]{8,5000}(?:\.[\w-]*)?")),
]
"""Pairs of hints and a pattern. Strings that match the pattern contain at least one of the hints in lower
case, which is much faster to check."""


_VARIABLE = re.compile(
    r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|_PASS|_PWD|_PAT|_AUTH)(?:_?\d+)?$",
    re.IGNORECASE,
)
_SHORTEST = 12
"""Least length of an environment variable's value to be masked; a shorter one may be an ordinary word."""


_SHORTEST_LEARNED = 8
"""Least length of a credential to be masked; shorter ones are stand-ins such as "none"."""
_MOST_LEARNED = 4096
_BEGINNING = 3
"""Characters of a credential that are kept, to find the places where it may begin."""
_KEY = os.urandom(32)
_learned: dict[bytes, tuple[str, int]] = {}
"""From digests of credentials to their beginnings and lengths. The credentials themselves are not kept; of
many, the oldest are forgotten."""


def learn_secret(value: str) -> None:
    """Have `redacted` mask a credential."""
    if len(value) < _SHORTEST_LEARNED or (digest := _digest(value)) in _learned:
        return
    _learned[digest] = (value[:_BEGINNING], len(value))
    if len(_learned) > _MOST_LEARNED:
        # Another thread may have removed the same one.
        _learned.pop(list(_learned)[0], None)  # noqa: RUF015  its `next(iter())` is not safe in threads


def _digest(value: str) -> bytes:
    return hashlib.blake2b(value.encode("utf-8", "surrogatepass"), key=_KEY, digest_size=16).digest()


@lru_cache(maxsize=1)
def _beginnings(kinds: frozenset[tuple[str, int]]) -> tuple[re.Pattern[str], dict[str, list[int]]]:
    """Return a pattern of all beginnings, and the lengths of the credentials of each, longest first."""
    lengths: dict[str, list[int]] = {}
    for beginning, length in sorted(kinds, key=lambda kind: -kind[1]):
        lengths.setdefault(beginning, []).append(length)
    return re.compile("|".join(map(re.escape, lengths))), lengths


def _without_learned(text: str) -> str:
    if not _learned:
        return text
    beginnings, lengths = _beginnings(frozenset(list(_learned.values())))
    parts: list[str] = []
    place, kept = 0, 0
    while found := beginnings.search(text, place):
        begin = found.start()
        place = begin + 1
        for length in lengths[found.group()]:
            if begin + length <= len(text) and _digest(text[begin : begin + length]) in _learned:
                parts += [text[kept:begin], MASK]
                place = kept = begin + length
                break
    return "".join([*parts, text[kept:]])


def redacted(text: str) -> str:
    """Return the string with all secrets masked."""
    text = _without_learned(text)
    if len(text) >= _SHORTEST:
        for name, value in os.environ.items():
            if len(value) >= _SHORTEST and value in text and _VARIABLE.search(name):
                text = text.replace(value, MASK)
    lowered = text.lower()
    for hints, pattern in _PATTERNS:
        for hint in hints:
            if hint in lowered:
                text = pattern.sub(rf"\g<1>{MASK}", text)
                break
    return text


def masked(error: BaseException) -> BaseException:
    """Return an error that may be logged.

    It is the error itself, or, if its message has secrets, one of the same name with the secrets masked.
    """
    text = str(error)
    clean = redacted(text)
    if clean == text:
        return error
    kind = type(error)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (Exception,), names)(clean).with_traceback(error.__traceback__)
