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
    """What the test registers is removed after it."""
    before = dict(_providers.registry._entries)
    yield
    for name in set(_providers.registry._entries) - set(before):
        models.unregister(name)
