"""No output holds a credential, wherever it comes from."""

import asyncio
import contextlib
import copy
import io
import json
import logging
import pickle
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dspy
import pytest
from langgraph.cache.sqlite import SqliteCache
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy
from typing_extensions import TypedDict

from mahsm import vmap
from mahsm._context import config, credential, where
from mahsm.cli import main
from mahsm.context import Secret, create_context, get_config, get_context, with_context
from mahsm.errors import MahsmError
from mahsm.testing import ModelServer
from tests.context.conftest import write
from tests.helpers import contents_of
from tests.tracing.spans import recorded


class State(TypedDict, total=False):
    items: list[int]
    answers: list[Any]
    failed: list[Any]


def test_a_secret_shows_nothing() -> None:
    secret = Secret("hush-12345")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>10}", repr([secret]), repr({secret})]
    shown += [json.dumps({"key": secret}, default=str), repr(vars(type(secret))), repr(secret.__getstate__())]
    assert "hush" not in "".join(shown)
    assert secret.get_secret_value() == "hush-12345"
    assert secret == Secret("hush-12345") != Secret("other")
    assert secret != "hush-12345"
    assert len({secret, Secret("hush-12345")}) == 1
    assert bool(secret)
    assert not Secret("")
    assert copy.copy(secret) is copy.deepcopy(secret) is secret
    with pytest.raises(AttributeError, match="cannot be changed"):
        secret._value = "x"  # type: ignore[misc]
    with pytest.raises(TypeError, match="a value of type 'int'; expected a string"):
        Secret(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("dump", [pickle.dumps, cloudpickle.dumps])
def test_secrets_and_contexts_are_not_pickled(dump: Any) -> None:
    context = create_context(credentials={"openai_api_key": "hush-12345"})
    for held in (Secret("hush-12345"), [Secret("hush-12345")], context, context._layer):
        with pytest.raises(TypeError, match="cannot be pickled") as raised:
            dump(held)
        assert "hush" not in str(raised.value)


PLACES = ("context", "provider", "config", "variable", "config.yaml", "providers.yaml", "credentials.yaml")


@pytest.fixture(params=PLACES)
def key(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A key without a form by which it could be known, planted in one place."""
    key = f"planted{uuid.uuid4().hex}"
    with contextlib.ExitStack() as stack:
        if request.param == "context":
            stack.enter_context(with_context(credentials={"openai_api_key": key}))
        elif request.param == "provider":
            stack.enter_context(with_context(providers={"openai": {"api_key": key}}))
        elif request.param == "config":
            stack.enter_context(with_context()).set_config("credentials.openai_api_key", Secret(key))
        elif request.param == "variable":
            monkeypatch.setenv("OPENAI_API_KEY", key)
        elif request.param == "config.yaml":
            write(home, "config.yaml", f"credentials: {{openai_api_key: {key}}}")
        elif request.param == "providers.yaml":
            write(home, "config.yaml", f"providers: {{openai: {{api_key: {key}}}}}")
        else:
            write(home, "credentials.yaml", f"openai_api_key: {key}")
        yield key


def ask(state: Any) -> str:
    key = get_context().get_credential("openai")
    if state["item"] % 2:
        raise ConnectionError(f"refused {key}, as the client says")
    lm = dspy.LM("openai/x", api_base=get_config("mine.api_base"), api_key=key, num_retries=0)
    return lm(f"question {state['item']} {get_config('mine.run')}")[0]


def graph(saver: Any, cache: Any) -> Any:
    edge = vmap(ask, batch_key="items", out_key="answers", on_error="collect", errors_key="failed")
    builder = StateGraph(State)
    builder.add_node("edge", edge, cache_policy=CachePolicy())
    builder.add_edge(START, "edge")
    return builder.compile(checkpointer=saver, cache=cache)


def test_planted_keys_are_in_no_output(
    key: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("openai").setLevel(logging.INFO)
    cache = SqliteCache(path=str(tmp_path / "cache"))
    with (
        ModelServer("an answer") as server,
        with_context(mine={"api_base": server.base_url, "run": uuid.uuid4().hex}) as context,
        SqliteSaver.from_conn_string(str(tmp_path / "saver")) as saver,
        recorded() as recording,
    ):
        compiled = graph(saver, cache)
        settings: Any = {"configurable": {"thread_id": "1"}, "callbacks": [recording.handler]}
        state = compiled.invoke({"items": list(range(6))}, settings)
        assert {call.key for call in server.calls} == {key}, "the provider gets it"
        outputs = [repr(state), pickle.dumps(state), repr(server.calls)]
        outputs += [span.to_json() for span in recording.spans]
        outputs += [repr(compiled.get_state(settings)), repr(list(compiled.get_state_history(settings)))]
        outputs += [repr(context), repr(context._layer), where("openai"), repr(dspy.settings)]
        outputs += [repr(get_config(section)) for section in ("models", "credentials", "providers")]
        cache._conn.close()
    assert "***, as the client says" in str(state["failed"])
    outputs += [path.read_bytes() for path in tmp_path.iterdir() if path.is_file()]
    outputs.append(contents_of(dspy_cache()))
    assert main(["configure", "list"]) == main(["configure", "path"]) == 0
    outputs += [caplog.text, repr([record.__dict__ for record in caplog.records]), *capsys.readouterr()]
    texts = [output if isinstance(output, str) else output.decode("latin") for output in outputs]
    assert [text for text in texts if key in text] == []


def dspy_cache() -> Path:
    return Path(dspy.clients.DISK_CACHE_DIR)


def test_planted_keys_are_in_no_traceback(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = f"planted{uuid.uuid4().hex}"
    write(home, "credentials.yaml", f"openai_api_key: [{key}]")
    monkeypatch.setenv("MAHSM_TEMPERATURE", "hot")
    actions: list[Any] = [
        lambda: credential("openai"),
        lambda: config("models.temperature"),
        lambda: create_context(credentials=key),
        lambda: create_context(credentials=[key]),
        lambda: create_context(providers={"openai": key}),
        lambda: create_context(credentials={"x_api_key": key.encode()}),
        lambda: create_context(credentials={"x_api_key": key}, mine=object()).save(),
        lambda: create_context(credentials={"x_api_key": key}).save(),
        lambda: create_context(credentials={"x_api_key": f"{key}\ud800"}).save(),
        lambda: pickle.dumps(create_context(credentials={"x_api_key": key})),
    ]
    for place, action in enumerate(actions):
        if place > 6:
            write(home, "credentials.yaml", f"x: {key}: y" if place == 7 else "")
        with pytest.raises((MahsmError, TypeError)) as raised:
            action()
        stack = "".join(traceback.format_exception(raised.value))
        error: BaseException | None = raised.value
        while error is not None:
            stack += repr(error)
            error = error.__cause__ or error.__context__
        assert key not in stack, place


def test_a_debugger_of_asyncio_shows_no_key() -> None:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger("asyncio").addHandler(handler)

    async def run() -> None:
        with with_context(credentials={"openai_api_key": "hush-12345"}):
            assert credential("openai") == "hush-12345"
            print(asyncio.current_task(), file=log)

    asyncio.run(run(), debug=True)
    logging.getLogger("asyncio").removeHandler(handler)
    assert "hush" not in log.getvalue()
