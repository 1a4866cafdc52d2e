"""Names of models: aliases, defaults, providers of your own, and errors that name the next step."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import pytest

from mahsm import models
from mahsm._models import _names
from mahsm.context import with_context
from mahsm.errors import CredentialError, ModelError
from mahsm.testing import FakeChatModel, FakeLM, ModelServer


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("gpt-4", "openai/gpt-4"),
        ("gpt-4o-mini", "openai/gpt-4o-mini"),
        ("o3-mini", "openai/o3-mini"),
        ("claude-3-opus", "anthropic/claude-3-opus"),
        ("gemini-pro", "gemini/gemini-pro"),
        ("openai/made-up", "openai/made-up"),
        ("ollama/llama3:1b", "ollama/llama3:1b"),
        ("openrouter/meta/llama", "openrouter/meta/llama"),
    ],
)
def test_full_names(name: str, full: str) -> None:
    assert _names.full(name) == full


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "opnai/gpt-4",
            r"'opnai/gpt-4' has the unknown provider 'opnai'; expected .* Did you mean 'openai'\?",
        ),
        (
            "foo/bar",
            r"the unknown provider 'foo'; expected 'provider/model'.* models.register\('foo', \.\.\.\)",
        ),
        ("gtp-4o", r"'gtp-4o' has no provider; expected 'provider/model'. Did you mean .*'gpt-4o'"),
        ("/x", "'/x' is not a name; expected 'provider/model'"),
        ("openai/", "'openai/' is not a name; expected 'provider/model'"),
    ],
)
def test_an_unknown_name(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models(name, "q")


def test_a_name_that_several_providers_have(registry: None) -> None:
    with pytest.raises(ModelError, match=r"has no provider; expected 'provider/model'. Write one of '\w+/"):
        models("llama-3.3-70b-versatile", "q")


def test_without_a_default_the_error_says_where_to_set_one() -> None:
    with pytest.raises(
        ModelError, match=r"no model is given.*with_context\(models=.*MAHSM_MODEL.*mahsm configure set"
    ):
        models("Hello")


def test_the_default_comes_from_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer(lambda call: call.model) as server:
        fixed = models.instance(None, cache=False)
        monkeypatch.setenv("MAHSM_API_BASE", server.base_url)
        monkeypatch.setenv("MAHSM_MODEL", "openai/environment")
        assert str(models("Hello", cache=False)) == "environment"
        with with_context(models={"default": "gpt-outer", "cache": False}):
            assert str(models(None, "Hello")) == str(models("Hello")) == str(fixed("Hello")) == "gpt-outer"
            with with_context(models={"default": "gpt-inner"}):
                assert str(fixed("Hello")) == "gpt-inner"
            assert str(models("gpt-given", "Hello")) == "gpt-given"


def test_explicit_options_win_over_those_of_the_context() -> None:
    with ModelServer("x") as server:
        ask = models.instance("openai/m", api_base=server.base_url, cache=False, temperature=0.2)

        def sent(**options: Any) -> list[Any]:
            ask("q", **options)
            body = server.calls[-1].body
            return [body.get("temperature"), body.get("max_tokens", body.get("max_completion_tokens"))]

        assert sent() == [0.2, None]
        with with_context(models={"temperature": 0.9, "max_tokens": 5}):
            assert sent() == [0.2, 5]
            assert sent(max_tokens=7, temperature=0.1) == [0.1, 7]
            models("openai/m", "q", api_base=server.base_url, cache=False)
            assert server.calls[-1].body["temperature"] == 0.9


def test_dspy_follows_the_context_and_never_the_other_way_round() -> None:
    answers = dspy.Predict("question -> answer")
    with (
        ModelServer(lambda call: {"answer": call.model}) as server,
        dspy.context(lm=server.lm("openai/dspys")),
    ):
        with with_context(models={"default": "gpt-context", "api_base": server.base_url, "cache": False}):
            assert answers(question="q").answer == "gpt-context"
        assert answers(question="q").answer == "dspys"
        with pytest.raises(ModelError, match="no model is given"):
            models("Hello")


def test_providers_have_options_of_their_own() -> None:
    with (
        ModelServer(lambda call: call.model) as server,
        with_context(providers={"openai": {"api_base": server.base_url}}),
    ):
        assert str(models("gpt-4", "q", cache=False)) == "gpt-4"


def test_aliases_of_the_context() -> None:
    with ModelServer(lambda call: call.model) as server:
        with with_context(models={"aliases": {"fast": "openai/small", "faster": "fast"}}):
            assert str(models("faster", "q", api_base=server.base_url, cache=False)) == "small"
        with (
            with_context(models={"aliases": {"a": "b", "b": "a"}}),
            pytest.raises(ModelError, match="leads to itself"),
        ):
            models("a", "q")


# Providers of your own.


class Acme(dspy.LM):
    def __init__(self, model: str, **options: Any) -> None:
        server: Any = options.pop("server", None)
        fake = FakeLM(f"I am {model}.")
        super().__init__(
            model, engine=fake.engine, async_engine=fake._provider.async_, cache=False, **options
        )
        self.server = server


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (Acme, "I am acme/x."),
        (lambda name, **options: FakeLM(f"made {name}"), "made acme/x"),
        (FakeLM("an instance"), "an instance"),
        (FakeChatModel("a chat model"), "a chat model"),
        (lambda name, **options: FakeChatModel(f"chat {name}"), "chat acme/x"),
    ],
)
def test_a_registered_provider(entry: Any, said: str, registry: None) -> None:
    models.register("acme", entry)
    assert str(models("acme/x", "q")) == said
    assert "acme" in models.providers()
    assert str(models.instance("acme/x", temperature=0.5)("q")) == said


def test_a_registered_model_and_an_alias(registry: None) -> None:
    models.register("acme/large", FakeLM("large"))
    models.register("big", "acme/large")
    assert str(models("big", "q")) == "large"
    models.register("acme/large", FakeLM("larger"))
    assert str(models("big", "q")) == "larger"
    assert models.list("acme") == ["acme/large"]
    models.unregister("acme/large")
    with pytest.raises(ModelError, match="unknown provider 'acme'"):
        models("big", "q")


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("", FakeLM("x"), "the name is ''; expected a string"),
        ("acme", 3, "'acme' is to be 3; expected a subclass of dspy.BaseLM"),
        ("acme", "", "'acme' is to be ''; expected"),
    ],
)
def test_what_cannot_be_registered(name: str, entry: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.register(name, entry)


def test_a_provider_that_makes_no_model(registry: None) -> None:
    models.register("acme", lambda name, **options: "no model")
    with pytest.raises(ModelError, match=r"'acme' made 'no model' of 'acme/x'; expected a dspy.BaseLM"):
        models("acme/x", "q")


def test_lists_of_models_and_providers() -> None:
    assert {"openai", "anthropic", "gemini", "ollama"} <= set(models.providers())
    assert "openai/gpt-4o-mini" in models.list("openai")
    assert set(models.list("openai")) < set(models.list())
    with pytest.raises(ModelError, match="unknown provider 'opnai'"):
        models.list("opnai")


PROVIDER = """
from mahsm.testing import FakeLM

def provider(name, **options):
    return FakeLM(f"installed {name}")
"""


def test_a_package_that_is_installed_brings_its_provider(tmp_path: Path) -> None:
    # What pip leaves of a wheel: its files and its metadata.
    info = tmp_path / "acme_models-1.0.dist-info"
    info.mkdir()
    (tmp_path / "acme_models.py").write_text(PROVIDER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-models\nVersion: 1.0\n")
    points = "[mahsm.providers]\nplugged = acme_models:provider\nbroken = acme_models:missing\n"
    (info / "entry_points.txt").write_text(points)
    code = """
from mahsm import models
from mahsm.errors import RegistryError
print(models("plugged/x", "q"), "plugged" in models.providers())
try:
    models("broken/x", "q")
except RegistryError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path)},
        check=True,
    )
    assert done.stdout.splitlines()[0] == "installed plugged/x True"
    assert (
        "'broken', of the group 'mahsm.providers', cannot be loaded from 'acme_models:missing'" in done.stdout
    )
    assert "Reinstall acme-models, or uninstall it." in done.stdout


# Credentials.


def test_a_missing_credential_says_what_to_set(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    expected = rf"'openai/m' needs a credential of 'openai', and none is found. Set OPENAI_API_KEY, .*{home}"
    with ModelServer("x") as server, pytest.raises(CredentialError, match=expected):
        models("openai/m", "q", api_base=server.base_url, cache=False)
    with ModelServer("x") as server:
        assert (
            str(models("openai/m", "q", api_base=server.base_url, cache=False, api_key="sk-given-1")) == "x"
        )
        assert server.calls[0].key == "sk-given-1"
