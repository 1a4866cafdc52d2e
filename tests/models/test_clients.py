"""Clients of names: who makes them, who shares them, and what a model of your own need not have."""

import threading
from typing import Any

import pytest
from dspy import lm15

from mahsm import models
from mahsm.errors import CredentialError
from mahsm.testing import FakeLM, ModelServer


def test_a_registered_function_may_use_other_models(registry: None) -> None:
    models.register("inner", FakeLM("inside"))
    models.register("router", lambda name, **options: models.instance("inner/m", **options).lm)
    assert str(models("router/x", "q")) == "inside"


def test_a_client_that_takes_long_to_make_delays_no_other(registry: None) -> None:
    begun, made = threading.Event(), threading.Event()

    def slow(name: str, **options: Any) -> FakeLM:
        begun.set()
        assert made.wait(30)
        return FakeLM("slow")

    models.register("slow", slow)
    models.register("fast", FakeLM("fast"))
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(str(models("slow/x", "q"))))
    thread.start()
    assert begun.wait(30)
    said.append(str(models("fast/x", "q")))
    made.set()
    thread.join()
    assert said == ["fast", "slow"]


def test_calls_that_begin_together_share_one_client(registry: None) -> None:
    together, made = threading.Barrier(8, timeout=30), list[str]()
    models.register("counted", lambda name, **options: made.append(name) or FakeLM("x"))

    def call() -> None:
        together.wait()
        models("counted/x", "q")

    threads = [threading.Thread(target=call) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert made == ["counted/x"]


@pytest.mark.parametrize("provider", ["github", "docker_model_runner", "poe"])
def test_providers_that_only_litellm_knows_can_be_called(provider: str) -> None:
    assert models.instance(f"{provider}/m").lm.model == f"{provider}/m"


def test_a_provider_that_is_declared_to_dspy_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer("declared") as server:
        access = lm15.AccessPolicy(
            provider="declared", env_keys=("DECLARED_TOKEN",), base_url=server.base_url
        )
        definition = lm15.ProviderDefinition.chat(access, compat=lm15.OpenAIChatCompat(), aliases=("dcl",))
        lm15.register_provider(definition)
        try:
            with pytest.raises(CredentialError, match="Set DECLARED_TOKEN, or"):
                models("dcl/m", "q", cache=False)
            monkeypatch.setenv("DECLARED_TOKEN", "sk-declared-1")
            assert str(models("dcl/m", "q", cache=False)) == "declared"
            assert server.calls[0].key == "sk-declared-1"
            assert "declared" in models.providers()
        finally:
            lm15.unregister_provider("declared")
