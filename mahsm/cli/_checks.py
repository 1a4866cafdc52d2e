"""The checks of `mahsm doctor`."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, cast

REQUIRED = ("langgraph", "dspy", "langfuse", "langchain-core")
OPTIONAL = {
    "jax": "pip install 'mahsm[jax]'",
    "equinox": "pip install 'mahsm[jax]'",
    "litellm": "pip install litellm",
    "keyring": "pip install 'mahsm[keyring]'",
    "redis": "pip install 'mahsm[redis]'",
    "matplotlib": "pip install 'mahsm[draw]'",
}
"""Optional packages, and how to get them."""

LONGEST_START = 120.0
"""Seconds that JAX has to find its devices."""


@dataclass(frozen=True)
class Check:
    """What a check found.

    Attributes:
        name: What was checked.
        state: "ok"; "missing" if it is not set up; "broken" if it is set up and does not work.
        found: What was found, without secrets.
        hint: How to get it; "" if nothing is to be done.
    """

    name: str
    state: Literal["ok", "missing", "broken"]
    found: str
    hint: str = ""


def versions() -> Iterator[Check]:
    """Check the versions of mahsm, Python and other packages."""
    import mahsm

    yield Check("mahsm", "ok", mahsm.__version__)
    yield Check("Python", "ok", ".".join(map(str, sys.version_info[:3])))
    for name in (*REQUIRED, *OPTIONAL):
        if (found := _version(name)) is not None:
            yield Check(name, "ok", found)
        elif name in OPTIONAL:
            yield Check(name, "missing", "not installed", OPTIONAL[name])
        else:
            yield Check(name, "broken", "not installed", f"pip install {name}")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def devices() -> Iterator[Check]:
    """Check which devices JAX finds, in another process: a broken driver may hang or end it."""
    if _version("jax") is None:
        return
    code = "import jax, json; print(json.dumps([str(each) for each in jax.devices()]))"
    # Elsewhere, JAX takes most of a GPU's memory when it finds it.
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=LONGEST_START,
            check=False,
        )
    except subprocess.TimeoutExpired:
        hint = "check the driver, or set JAX_PLATFORMS=cpu"
        yield Check("JAX devices", "broken", f"no answer in {LONGEST_START:.0f} s", hint)
        return
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        yield Check("JAX devices", "broken", last, "check the driver, or set JAX_PLATFORMS=cpu")
        return
    yield Check("JAX devices", "ok", ", ".join(json.loads(done.stdout.splitlines()[-1])))


def home() -> Iterator[Check]:
    """Check the folder of settings, and the modes of its files."""
    from mahsm._context._internal import config_of, files, here

    folder = Path(files.home())
    if not folder.exists():
        yield Check("settings", "missing", f"{folder} does not exist", "mahsm setup")
        return
    wide = [
        f"{path} has mode {mode:04o}"
        for path in (folder, folder / files.CONFIG, folder / files.CREDENTIALS)
        if path.exists() and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077
    ]
    if wide:
        yield Check("settings", "broken", "; ".join(wide), f"chmod -R go= {folder}")
        return
    config_of(here.NOTHING, "models")
    yield Check("settings", "ok", f"{folder}, mode 0700")


def model() -> Iterator[Check]:
    """Check the default model and its credential."""
    from mahsm import _context
    from mahsm._context._internal import source_of
    from mahsm._models._internal import full, needs_key, provider_of, variables_of

    if (name := _context.config("models.default")) is None:
        yield Check("default model", "missing", "not set", "mahsm setup")
        return
    name = full(str(name))
    provider = provider_of(name)
    if source_of(provider, variables_of(provider)) is None and needs_key(provider):
        hint = f"mahsm setup --provider {provider}"
        yield Check("default model", "broken", f"{name}, without a credential", hint)
    else:
        yield Check("default model", "ok", name)


def credentials() -> Iterator[Check]:
    """Check which providers have a credential, and where it is from."""
    from mahsm._context._internal import environment, field_of, files, source_of
    from mahsm._models._internal import known_providers, variables_of

    settings = cast("dict[str, dict[str, Any]]", files.config())
    stored = {*files.credentials(), *(settings.get("credentials") or ())}
    held = {name for name, each in (settings.get("providers") or {}).items() if "api_key" in each}
    found = False
    for provider in sorted(known_providers()):
        names = variables_of(provider)
        # Not of all providers, as each look into the keyring may ask for a password.
        if not (environment.first_of(names) or field_of(provider) in stored or provider in held):
            continue
        found = True
        yield Check("credential", "ok", f"{field_of(provider)}, from {source_of(provider, names)}")
    if not found:
        yield Check("credential", "missing", "none", "mahsm setup, or set OPENAI_API_KEY")


def limits() -> Iterator[Check]:
    """Check the rate limits that the settings have; programs define theirs when they run."""
    from mahsm import _context

    found: Any = _context.config("limits")
    if isinstance(found, dict) and found:
        named = cast("dict[str, Any]", found).items()
        yield Check("rate limits", "ok", ", ".join(f"{name}: {value}" for name, value in named))
    else:
        yield Check(
            "rate limits", "missing", "none in the settings", "RateLimit('openai', rps=50) in a program"
        )


def cache() -> Iterator[Check]:
    """Check the folder of DSPy's cache."""
    folder = Path(os.environ.get("DSPY_CACHEDIR") or Path.home() / ".dspy_cache")
    above = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if os.access(above, os.W_OK):
        yield Check("DSPy's cache", "ok", f"{folder}{'' if folder.exists() else ', not made yet'}")
    else:
        yield Check("DSPy's cache", "broken", f"{folder} cannot be written", "set DSPY_CACHEDIR")
