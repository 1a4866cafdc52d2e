"""Masks secrets in strings that mahsm writes into states, checkpoints, traces and logs.

Errors of clients quote keys, headers and URLs. A substring is masked only if it has the form of a secret: the
user and password of a URL, credentials after `Authorization`, the value of a parameter with a name such as
`api_key` or `password`, the key of a known provider, or the value of an environment variable with such a
name. The rest of the string is unchanged.
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


def redacted(text: str) -> str:
    """Return the string with all secrets masked."""
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
