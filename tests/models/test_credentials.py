"""Bindings, clients and errors hold no credential; it is looked up at each call."""

import asyncio
import copy
import json
import logging
import os
import pickle
import traceback
from pathlib import Path
from typing import Any

import dspy
import pytest

from mahsm import models, vmap, xcs
from mahsm.context import with_context
from mahsm.errors import CredentialError, ModelError
from mahsm.testing import ModelServer, Reply
from tests.context.test_secrets import dspy_cache
from tests.context.test_secrets import key as key
from tests.helpers import contents_of
from tests.tracing.spans import recorded


def test_rotation_needs_no_new_binding_and_no_new_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    with ModelServer("x") as server:
        ask = models.instance("openai/m", api_base=server.base_url, cache=False)
        for number in range(3):
            monkeypatch.setenv("OPENAI_API_KEY", f"sk-number-{number}")
            ask("q")
            asyncio.run(ask.acall("q"))
            with with_context(credentials={"openai_api_key": "sk-of-context"}):
                ask("q")
        assert [call.key for call in server.calls] == [
            key for n in range(3) for key in (f"sk-number-{n}", f"sk-number-{n}", "sk-of-context")
        ]
        pools = [key for key in ask.lm._engine_store if key[0] is None]
        assert len(pools) == 1


def test_litellm_gets_the_credential_too() -> None:
    with ModelServer("x") as server:
        models("openai/m", "q", api_base=server.base_url, cache=False, headers={"X-Test": "1"})
        assert server.calls[0].key == "sk-test-of-models-1"


def test_a_given_key_wins_and_is_kept_nowhere() -> None:
    with ModelServer("x") as server, with_context(credentials={"openai_api_key": "sk-of-context"}):
        ask = models.instance("openai/m", api_base=server.base_url, cache=False, api_key="sk-given-1")
        ask("q")
        ask("q", api_key="sk-given-2")
        assert [call.key for call in server.calls] == ["sk-given-1", "sk-given-2"]
    assert "sk-given" not in repr(ask) + repr(vars(ask)) + repr(vars(ask.lm))
    assert b"sk-given" not in pickle.dumps(ask) + pickle.dumps(ask.lm)


def test_a_client_of_yours_takes_a_key_as_any_option() -> None:
    with ModelServer("x") as server:
        models(server.lm(), "q", api_key="sk-given-3")
        assert server.calls[0].key == "sk-given-3"


def test_a_program_that_is_saved_with_a_client_loads_anywhere(tmp_path: Path) -> None:
    program = dspy.Predict("q -> a")
    program.lm = models.instance("openai/m", temperature=0.5).lm
    program.save(tmp_path / "program.json")
    loaded = dspy.Predict("q -> a")
    loaded.load(tmp_path / "program.json")
    assert type(loaded.lm) is dspy.LM
    assert (loaded.lm.model, loaded.lm.kwargs["temperature"]) == ("openai/m", 0.5)


def answer(call: Any) -> Any:
    if "refuse" in call.text:
        return Reply(f"Incorrect API key provided: {call.key}.", status=401)
    return Reply("an answer", usage=(1, 1))


class Seen(dspy.utils.callback.BaseCallback):
    """A callback that writes down what it gets, as tracing tools do."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.seen += [repr(inputs), json.dumps(inputs, default=repr), repr(vars(instance))]

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        # An error of the provider's, which may quote the key, is masked when it has left DSPy.
        self.seen.append(repr(outputs))


def test_planted_keys_are_in_no_output_of_models(
    key: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if os.environ["OPENAI_API_KEY"] != key:
        monkeypatch.delenv("OPENAI_API_KEY")
    caplog.set_level(logging.DEBUG)
    logging.getLogger("openai").setLevel(logging.INFO)
    callback, outputs = Seen(), []
    with ModelServer(answer) as server, recorded() as recording, dspy.context(callbacks=[callback]):
        ask = models.instance("openai/m", api_base=server.base_url, num_retries=0)
        settings: Any = {"callbacks": [recording.handler]}
        edge = vmap(ask, batch_key="xs", out_key="ys", on_error="collect")
        outputs.append(repr(edge.invoke({"xs": ["a", "refuse"]}, settings)))
        outputs.append(repr(xcs.jit(lambda q: f"{ask(q)}")("jitted")))
        outputs += [
            repr(ask("q")),
            repr(ask("q").raw),
            repr(models("openai/m", "r", api_base=server.base_url)),
        ]
        outputs += [
            "".join(ask.stream("streamed")),
            repr(ask),
            repr(ask.lm),
            repr(vars(ask)),
            repr(vars(ask.lm)),
        ]
        outputs += [
            repr(ask.lm.history),
            repr(dspy.clients.base_lm.GLOBAL_HISTORY),
            repr(ask.lm.dump_state()),
        ]
        outputs += [repr(copy.deepcopy(ask.lm).__dict__), repr(ask.lm.copy(temperature=1.0).__dict__)]
        outputs += [pickle.dumps(one).decode("latin") for one in (ask, ask.lm, ask("q"))]
        for call in (
            lambda: ask("refuse"),
            lambda: list(ask.stream("refuse")),
            lambda: asyncio.run(ask.acall("refuse")),
        ):
            with pytest.raises(dspy.LMAuthError) as raised:
                call()
            outputs += [
                "".join(traceback.format_exception(raised.value)),
                repr(raised.value),
                repr(vars(raised.value)),
            ]
        assert {call.key for call in server.calls} == {key}, "the provider gets it"
        outputs += [span.to_json() for span in recording.spans]
    outputs += callback.seen
    outputs.append(contents_of(dspy_cache()).decode("latin"))
    outputs += [caplog.text, repr([record.__dict__ for record in caplog.records]), *capsys.readouterr()]
    assert [text for text in outputs if key in text] == []


def test_spaces_around_a_key_are_no_part_of_it() -> None:
    with ModelServer("x") as server:
        here: Any = {"api_base": server.base_url, "cache": False}
        models("openai/m", "q", api_key=" sk-given-4\r\n", **here)
        models.instance("openai/m", api_key="sk-given-5\n", **here)("q")
        assert [call.key for call in server.calls] == ["sk-given-4", "sk-given-5"]


@pytest.mark.parametrize("key", ["sk-given\n-67890", "\u201csk-given-67890\u201d"])
def test_a_key_that_no_header_can_have_is_an_error_that_does_not_show_it(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with ModelServer("x") as server:
        for given in ({"api_key": key}, {}):
            with pytest.raises(CredentialError, match="the API key of 'openai' has a character") as raised:
                models("openai/m", "q", api_base=server.base_url, cache=False, **given)
            assert "67890" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_an_empty_key_is_not_looked_up_elsewhere(engine: str) -> None:
    with ModelServer("x") as server:
        here: Any = {"api_base": server.base_url, "cache": False, "engine": engine, "num_retries": 0}
        with pytest.raises(CredentialError, match="api_key is empty, and 'openai' needs a credential"):
            models("openai/m", "q", api_key="", **here)
        with pytest.raises(CredentialError, match="api_key is empty"):
            models.instance("openai/m", api_key=" ", **here)("q")
        assert server.calls == []


def test_a_key_of_a_call_is_for_its_own_client_only() -> None:
    with ModelServer({"output": "3"}) as server:
        here: Any = {"api_base": server.base_url, "cache": False}
        inner = models.instance("openai/inner", api_key="sk-inner-1", **here)
        with dspy.context(adapter=dspy.TwoStepAdapter(inner.lm)):
            assert models("openai/outer", "q", output=int, api_key="sk-outer-1", **here).output == 3
        assert [(call.model, call.key) for call in server.calls] == [
            ("outer", "sk-outer-1"),
            ("inner", "sk-inner-1"),
        ]


def test_an_error_with_another_cause_is_not_a_missing_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ModelError, match="cannot be part of a prompt"):
        models("openai/m", [object()])


def test_a_refused_key_of_a_binding_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with ModelServer(Reply.failed(401)) as server:
        ask = models.instance("openai/m", api_key="sk-refused-1", api_base=server.base_url, cache=False)
        with pytest.raises(dspy.LMAuthError, match="401"):
            ask("q")
