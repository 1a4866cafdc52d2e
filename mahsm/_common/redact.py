"""Masks what looks like a secret, in texts that mahsm writes into states, checkpoints, traces and logs.

Errors of clients quote keys, headers and URLs. What is masked is what has the form of a secret, and nothing
else: the user and password of a URL, credentials after `Authorization`, values of parameters that are named
as keys and passwords are, and the keys of known providers; and what environment variables hold that are named
as keys and passwords are. Ordinary text stays as it is.
"""

import os
import re

MASK = "***"

_VALUE = r"[^\s\"'&,;<>(){}\[\]\\]"
_NAMES = (
    r"(?<![a-z])(?:api|access|secret|private|subscription|account)[_-]?key(?:[_-]?id)?"
    r"|(?<![a-z])(?:access|auth|refresh|session|bearer|security)[_-]?token"
    r"|(?<![a-z])client[_-]?secret|(?<![a-z])secret|(?<![a-z])password|(?<![a-z])passwd|(?<![a-z])passphrase"
)
_UNLIKE_A_WORD = rf"(?-i:(?={_VALUE}{{0,200}}[0-9])|(?={_VALUE}{{1,200}}[A-Z]))"
"""A digit in it, or a capital that is not its first letter."""

_ASSIGNED = r"(?<==)|(?<==[\"'])|(?<=[\"']:[\"'])|(?<=[\"']: [\"'])"
"""After `name=`, `name="` or `"name": "`."""

_SCHEMES = r"(?:bearer|basic|digest|token)\b"


def _pattern(kept: str, secret: str) -> re.Pattern[str]:
    """A secret, with what stands before it and is kept."""
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
"""What a text with such a secret has at least one of, in lower case, which is quick to see; and the
pattern."""


_VARIABLE = re.compile(
    r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|_PASS|_PWD|_PAT|_AUTH)(?:_?\d+)?$",
    re.IGNORECASE,
)
_SHORTEST = 12
"""Characters of a value that is one of its own: a shorter one may be a word of the text."""


def redacted(text: str) -> str:
    """The text, with each secret in it masked."""
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
    """What others may write down of an error: itself, or one of the same name whose message has its secrets
    masked.
    """
    text = str(error)
    clean = redacted(text)
    if clean == text:
        return error
    kind = type(error)
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (Exception,), names)(clean).with_traceback(error.__traceback__)
