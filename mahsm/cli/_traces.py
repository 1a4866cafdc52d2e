"""The check of `mahsm doctor` whether Langfuse takes traces."""

import os
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from mahsm.cli._checks import Check

LONGEST_WAIT = 3.0
"""Seconds that Langfuse has for an answer."""


def langfuse(*, offline: bool) -> Iterator[Check]:
    """Check Langfuse's keys and its host, and ask it whether it takes them."""
    names = ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY")
    public, secret = (os.environ.get(name, "").strip() for name in names)
    missing = [name for name, key in zip(names, (public, secret), strict=True) if not key]
    hint = f"set {' and '.join(missing)}; Langfuse's project settings have them"
    if len(missing) == 2:
        yield Check("Langfuse", "missing", "no keys: nothing is traced", hint)
        return
    if missing:
        yield Check("Langfuse", "broken", f"{missing[0]} is missing: nothing is traced", hint)
        return
    host = os.environ.get("LANGFUSE_BASE_URL") or os.environ.get("LANGFUSE_HOST")
    host = (host or "https://cloud.langfuse.com").rstrip("/")
    if offline:
        yield Check("Langfuse", "ok", f"{host}, not asked")
        return
    yield _answered(host, f"{public}:{secret}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, which would send the keys elsewhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _answered(host: str, keys: str) -> Check:
    wrong = "check LANGFUSE_BASE_URL, and the network"
    if not host.startswith(("http://", "https://")):
        return Check("Langfuse", "broken", f"{host!r} is no address", "set LANGFUSE_BASE_URL to https://...")
    request = urllib.request.Request(
        f"{host}/api/public/projects", headers={"Authorization": f"Basic {b64encode(keys.encode()).decode()}"}
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=LONGEST_WAIT):
            return Check("Langfuse", "ok", f"{host}, takes the keys")
    except urllib.error.HTTPError as error:
        with error:
            if error.code in (401, 403):
                return Check("Langfuse", "broken", f"{host} refuses the keys", "check LANGFUSE_SECRET_KEY")
            return Check("Langfuse", "broken", f"{host} answers with {error.code}", wrong)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        return Check("Langfuse", "broken", f"{host} does not answer: {why}", wrong)
