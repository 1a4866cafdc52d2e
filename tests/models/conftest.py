from collections.abc import Iterator

import pytest

from mahsm import models
from mahsm._models import _providers
from tests.context.conftest import home as home


@pytest.fixture(autouse=True)
def _own_settings(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the test's own, and a key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-of-models-1")


@pytest.fixture
def registry() -> Iterator[None]:
    """Nothing is registered but what the test registers."""
    entries = _providers.registry._entries
    before = dict(entries)
    entries.clear()
    yield
    for name in list(entries):
        models.unregister(name)
    entries.update(before)
