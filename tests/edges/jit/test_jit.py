"""`jit_edge`: what it computes, where, and what it says when it cannot."""

import asyncio
import itertools
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

import dspy
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph

from mahsm import jit_edge, parallel
from mahsm.errors import EdgeError, JitError, MissingKeyError, StateError
from mahsm.testing import ModelServer
from tests.helpers import MODES, STATES, chat_model, graph_of, run, thread


class Scale(eqx.Module):
    by: jax.Array
    name: str = eqx.field(static=True, default="")

    def __call__(self, x: Any) -> Any:
        return x * self.by


def double(**options: Any) -> Any:
    return jit_edge(lambda xs: xs * 2, in_keys=["xs"], out_key="ys", **options)


# In graphs.


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_in_a_graph_with_a_checkpointer(mode: str, state: type[Any]) -> None:
    graph = graph_of(
        double(), state=state, checkpointer=InMemorySaver(serde=JsonPlusSerializer(pickle_fallback=False))
    )
    found = run(graph, {"xs": [1.0, 2.0]}, mode, thread())
    assert found["ys"].tolist() == [2.0, 4.0]
    assert graph.get_state(thread()).values["ys"].tolist() == [2.0, 4.0]


@pytest.mark.parametrize("mode", MODES)
def test_alone(mode: str) -> None:
    assert run(double(), {"xs": 2.0}, mode) == {"ys": 4.0}


def test_it_is_drawn_with_its_function() -> None:
    assert "double\\3adouble" in graph_of(double(name="double")).get_graph(xray=True).draw_mermaid()
    with pytest.raises(EdgeError, match="this subgraph is for drawings"):
        double().graph.invoke({})


def test_several_arguments_by_place_and_by_name() -> None:
    by_place = jit_edge(lambda a, b: a - b, in_keys=["x", "z"], out_key="y")
    by_name = jit_edge(lambda a, b: a - b, in_keys={"b": "z", "a": "x"}, out_key="y")
    state = {"x": 5.0, "z": 2.0, "unused": object()}
    assert by_place.invoke(state) == by_name.invoke(state) == {"y": 3.0}


def test_several_out_keys() -> None:
    state = {"x": [1.0, 3.0]}
    pair = jit_edge(lambda x: (x.min(), x.max()), in_keys=["x"], out_key=["low", "high"])
    named = jit_edge(
        lambda x: {"high": x.max(), "low": x.min(), "more": x}, in_keys=["x"], out_key=["low", "high"]
    )
    assert pair.invoke(state) == named.invoke(state) == {"low": 1.0, "high": 3.0}
    with pytest.raises(
        TypeError, match="returned a tuple of 3; expected 2 values, for the keys 'low', 'high'"
    ):
        jit_edge(lambda x: (x, x, x), in_keys=["x"], out_key=["low", "high"]).invoke(state)


def test_as_a_branch_and_in_other_edges() -> None:
    branches = parallel(
        [double(name="a"), jit_edge(lambda xs: xs.sum(), in_keys=["xs"], out_key="total", name="b")]
    )
    found = branches.invoke({"xs": [1.0, 2.0]})
    assert (found["ys"].tolist(), found["total"]) == ([2.0, 4.0], 3.0)


def test_a_missing_key_names_those_there_are() -> None:
    with pytest.raises(MissingKeyError, match=r"jit_<?lambda>?: state has no key 'xs'; it has 'ys'"):
        double().invoke({"ys": 1})


# What comes out.


def outputs(value: Any, output: str = "numpy") -> Any:
    return jit_edge(lambda x: value(x), in_keys=["x"], out_key="y", output=output).invoke(
        {"x": np.arange(3.0)}
    )["y"]  # type: ignore[arg-type]


def test_outputs_that_a_checkpointer_can_store() -> None:
    found = outputs(
        lambda x: {
            "array": x,
            "number": x.sum(),
            "whole": x.argmax(),
            "yes": x[0] > -1,
            "pair": (x[0], [x, None]),
        }
    )
    assert type(found["array"]) is np.ndarray
    assert [type(found[key]) for key in ("number", "whole", "yes")] == [float, int, bool]
    serializer = JsonPlusSerializer(pickle_fallback=False)
    stored = serializer.loads_typed(serializer.dumps_typed(found))
    assert stored["array"].tolist() == [0.0, 1.0, 2.0]
    assert (stored["number"], stored["whole"], stored["yes"]) == (3.0, 2, True)


def test_rare_floats_become_float32() -> None:
    assert outputs(lambda x: x.astype(jnp.bfloat16)).dtype == np.float32
    assert outputs(lambda x: x.sum().astype(jnp.bfloat16)) == 3.0


def test_output_as_python_and_as_jax() -> None:
    assert outputs(lambda x: {"x": x, "sum": x.sum()}, "python") == {"x": [0.0, 1.0, 2.0], "sum": 3.0}
    assert isinstance(outputs(lambda x: x, "jax"), jax.Array)
    assert isinstance(outputs(lambda x: Scale(x), "jax"), Scale)


def test_outputs_that_no_checkpointer_can_store() -> None:
    with pytest.raises(JitError, match=r"of type Scale, which a checkpointer cannot store.*output='jax'"):
        outputs(lambda x: Scale(x))
    with pytest.raises(JitError, match="expected arrays of numbers"):
        outputs(lambda x: jax.random.key(0))
    with pytest.raises(JitError, match="returns a value that is not an array"):
        outputs(lambda x: "text")


def test_a_mutated_input_cannot_change_a_result() -> None:
    for size in (4, 1 << 20):
        xs = np.ones(size, np.float32)
        same, found = jit_edge(lambda xs: xs, in_keys=["xs"], out_key="ys"), double()
        results = same.invoke({"xs": xs})["ys"], found.invoke({"xs": xs})["ys"]
        xs[:] = 7
        assert [float(result.max()) for result in results] == [1.0, 2.0]


def test_results_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        double().invoke({"xs": [1.0]})["ys"][0] = 5


# Compilations.


def test_one_compilation_for_equal_shapes() -> None:
    edge = double()
    for number in range(100):
        edge.invoke({"xs": np.full(3, number, np.float32)})
    assert (edge.stats.calls, edge.stats.compiles) == (100, 1)
    assert edge.stats.compile_ms > 0
    edge.invoke({"xs": np.ones(4)})
    assert edge.stats.compiles == 2


def test_warmup_compiles_without_computing() -> None:
    ran: list[float] = []

    def fn(xs: Any) -> Any:
        jax.debug.callback(lambda x: ran.append(float(x)), xs.sum())
        return xs * 2

    edge = jit_edge(fn, in_keys=["xs"], out_key="ys")
    edge.warmup({"xs": np.zeros(3, np.float32)}, {"xs": jax.ShapeDtypeStruct((4,), np.float32)})
    assert (ran, edge.stats.calls, edge.stats.compiles) == ([], 0, 2)
    edge.invoke({"xs": [1.0, 2.0, 3.0]})
    edge.invoke({"xs": np.ones(4)})
    jax.effects_barrier()
    assert (sorted(ran), edge.stats.calls, edge.stats.compiles) == ([4.0, 6.0], 2, 2)


def test_many_threads_compile_once() -> None:
    edge, barrier = double(), threading.Barrier(8)

    def call(number: int) -> Any:
        barrier.wait()
        return edge.invoke({"xs": np.full(3, number, np.float32)})["ys"].tolist()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(8))) == [[number * 2.0] * 3 for number in range(8)]
    assert (edge.stats.calls, edge.stats.compiles) == (8, 1)


def test_a_compilation_does_not_block_the_event_loop() -> None:
    started, release = threading.Event(), threading.Event()

    def fn(x: Any) -> Any:
        started.set()
        assert release.wait(10)
        return x * 2

    async def both() -> Any:
        task = asyncio.ensure_future(jit_edge(fn, in_keys=["x"], out_key="y").ainvoke({"x": 1.0}))
        assert await asyncio.to_thread(started.wait, 10)
        release.set()
        return await task

    assert asyncio.run(both()) == {"y": 2.0}


# Modules.


def test_a_module_stays_where_it_computes_and_can_be_swapped() -> None:
    edge = jit_edge(Scale(jnp.array(2.0)), in_keys=["x"], out_key="y")
    assert edge.name == "jit_Scale"
    assert edge.invoke({"x": 3.0}) == {"y": 6.0}
    edge.replace(Scale(jnp.array(5.0)))
    assert edge.invoke({"x": 3.0}) == {"y": 15.0}
    assert edge.stats.compiles == 1


def test_the_arrays_of_a_module_are_its_own() -> None:
    by = np.full(64, 2.0, np.float32)
    edge = jit_edge(Scale(by), in_keys=["x"], out_key="y")  # type: ignore[arg-type]
    edge.warmup({"x": 1.0})
    by[:] = 7
    assert edge.invoke({"x": 1.0})["y"][0] == 2.0


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Scale(jnp.ones(3)), r"an array of float32\[3\]; expected float32\[\]"),
        (Scale(jnp.array(2)), r"an array of int32\[\]"),
        (Scale(jnp.array(2.0), "other"), "differs from .* in more than its arrays"),
        (lambda x: x, "in more than its arrays"),
    ],
)
def test_a_module_that_does_not_fit_is_refused(module: Any, message: str) -> None:
    edge = jit_edge(Scale(jnp.array(2.0)), in_keys=["x"], out_key="y")
    with pytest.raises(EdgeError, match=message):
        edge.replace(module)
    assert edge.invoke({"x": 1.0}) == {"y": 2.0}


def test_a_step_that_is_not_there() -> None:
    with pytest.raises(EdgeError, match="step='other'; expected one of 'jit_Scale'"):
        jit_edge(Scale(jnp.array(2.0)), in_keys=["x"], out_key="y").replace(
            Scale(jnp.array(1.0)), step="other"
        )


# 64 bits.


def test_x64_on_and_off_in_one_process_and_in_threads() -> None:
    narrow, wide = double(name="narrow"), double(name="wide", x64=True)

    def dtypes(_: Any = None) -> list[str]:
        return [edge.invoke({"xs": [0.1]})["ys"].dtype.name for edge in (narrow, wide, narrow)]

    expected = ["float32", "float64", "float32"]
    assert dtypes() == expected
    with jax.enable_x64(True):
        assert dtypes() == expected
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(dtypes, range(8))) == [expected] * 8
    assert wide.invoke({"xs": 0.1})["ys"] == 0.2


class Numbers(TypedDict, total=False):
    xs: Any
    a: Any
    b: Any


@pytest.mark.parametrize("mode", MODES)
def test_x64_does_not_depend_on_where_langgraph_runs_a_node(mode: str) -> None:
    builder = StateGraph(Numbers)
    for key, x64 in {"a": False, "b": True}.items():
        builder.add_node(f"node_{key}", jit_edge(lambda xs: xs * 2, in_keys=["xs"], out_key=key, x64=x64))
        builder.add_edge(START, f"node_{key}")
        builder.add_edge(f"node_{key}", END)
    with jax.enable_x64(True):
        found = run(builder.compile(), {"xs": [0.1]}, mode)
    assert (found["a"].dtype.name, found["b"].dtype.name) == ("float32", "float64")


def test_a_module_in_64_bits() -> None:
    edge = jit_edge(Scale(np.array(0.1)), in_keys=["x"], out_key="y", x64=True)  # type: ignore[arg-type]
    assert edge.invoke({"x": 3.0})["y"] == 0.1 * 3.0


# Devices.


def test_a_device_by_name_and_as_it_is() -> None:
    for device in ("cpu", "cpu:0", jax.devices("cpu")[0]):
        assert double(device=device, output="jax").invoke({"xs": 1.0})["ys"].devices() == {
            jax.devices("cpu")[0]
        }


@pytest.mark.parametrize("device", ["quantum", "cpu:7", "cuda:1"])
def test_a_device_that_is_not_there_lists_those_that_are(device: str) -> None:
    edge = double(device=device)
    with pytest.raises(
        EdgeError, match=rf"device={device!r} does not exist; JAX has .*cpu:0.*Pass one of these"
    ):
        edge.invoke({"xs": 1.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "GPU!"}, r"device='GPU!'; expected a platform with or without a number"),
        ({"device": 3}, r"device=3; expected the name of a platform, a jax.Device or a jax.sharding.Mesh"),
        ({"shard": "xs"}, r"shard='xs' spreads a key over devices; pass them as device=jax.sharding.Mesh"),
        (
            {"device": jax.make_mesh((1,), ("d",))},
            "device is a mesh of devices; pass shard= with the key whose first axis",
        ),
    ],
)
def test_devices_that_cannot_be_are_refused_at_once(options: Any, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        double(**options)


# Functions that cannot be compiled.


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x, k: x[:k], r"static_keys=\['k'\]"),
        (lambda x, k: jax.lax.top_k(x, k)[0], r"Make 'k' static: static_keys=\['k'\]"),
        (lambda x, k: x if k > 1 else -x, r"TracerBoolConversionError.*static_keys=\['k'\]"),
        (lambda x, k: x * [1.0, 2.0, 3.0][k], r"static_keys=\['k'\]"),
        (lambda x, k: np.exp(x), "use jax.numpy"),
        (lambda x, k: x if x[0] > 0 else -x, "use jnp.where or jax.lax.cond"),
        (lambda x, k: x[x > 1], "jnp.where with a default, or multiply by the mask"),
        (lambda x, k: float(x[0]), "needs the number itself"),
        (lambda x, k: [1.0, 2.0][x.astype(int)[0]], "use jnp.take"),
        (lambda x, k: "text", "return arrays only"),
    ],
)
def test_a_function_that_cannot_be_traced_says_what_to_change(fn: Any, message: str) -> None:
    edge = jit_edge(fn, in_keys=["x", "k"], out_key="y", name="broken")
    with pytest.raises(
        JitError,
        match=rf"(?s)broken: the function cannot be compiled.*{message}.*Its keys: x dynamic, k dynamic",
    ):
        edge.invoke({"x": np.arange(3.0), "k": 2})


def test_what_the_function_raises_comes_out_as_it_is() -> None:
    edge = jit_edge(lambda x: x @ jnp.ones(5), in_keys=["x"], out_key="y", name="product")
    with pytest.raises(TypeError, match="dot_general") as raised:
        edge.invoke({"x": np.ones(3)})
    assert not isinstance(raised.value, JitError)
    assert "mahsm: product, while it was compiled" in raised.value.__notes__


def test_a_value_that_leaks_out() -> None:
    kept: list[Any] = []
    edge = jit_edge(lambda x: (kept.append(x), x + sum(kept[:-1]))[1], in_keys=["x"], out_key="y")
    with pytest.raises(JitError, match=r"keeps a traced value|different values each time"):
        edge.invoke({"x": 1.0})


counter = itertools.count()


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * random.random(),
        lambda x: x + np.random.default_rng().normal(size=3),
        lambda x: x + next(counter),
        lambda x: x if next(counter) % 2 else -x,
    ],
)
def test_randomness_of_the_function_itself_is_found(fn: Any) -> None:
    with pytest.raises(JitError, match=r"different values each time it is traced.*Pass seed_key="):
        jit_edge(fn, in_keys=["x"], out_key="y").invoke({"x": np.ones(3)})


def test_what_stays_equal_is_not_taken_for_randomness() -> None:
    table = np.arange(3.0)
    edge = jit_edge(
        lambda x: x + table + jnp.linspace(0, 1, 3) + jax.random.normal(jax.random.key(0), (3,)),
        in_keys=["x"],
        out_key="y",
    )
    assert edge.invoke({"x": np.zeros(3)})["y"].shape == (3,)


def test_draws_come_from_a_seed() -> None:
    def noisy(name: str) -> Any:
        return jit_edge(
            lambda x, *, key: x + jax.random.normal(key, (3,)),
            in_keys=["x"],
            out_key="y",
            seed_key="seed",
            name=name,
        )

    first, other = noisy("first"), noisy("other")
    one, same, two = (first.invoke({"x": 0.0, "seed": seed})["y"].tolist() for seed in (1, 1, np.int64(2)))
    assert one == same != two
    assert other.invoke({"x": 0.0, "seed": 1})["y"].tolist() != one
    assert first.stats.compiles == 1
    assert first.reads == {"x", "seed"}


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, None, "1"])
def test_what_is_no_seed(seed: Any) -> None:
    edge = jit_edge(lambda x, *, key: x, in_keys=["x"], out_key="y", seed_key="seed")
    with pytest.raises(
        StateError, match=r"state\['seed'\] is .*; expected a seed, an integer from 0 to 2\*\*32 - 1"
    ):
        edge.invoke({"x": 0.0, "seed": seed})


def test_a_missing_seed() -> None:
    with pytest.raises(MissingKeyError, match="no key 'seed'"):
        jit_edge(lambda x, *, key: x, in_keys=["x"], out_key="y", seed_key="seed").invoke({"x": 0.0})


def test_calls_of_models_are_refused() -> None:
    with ModelServer() as server:
        lm = dspy.LM("openai/m", api_base=server.base_url, api_key="test", cache=False)
        model = chat_model(server.base_url)
        predict = dspy.Predict("question -> answer")

        def ask(x: Any) -> Any:
            with dspy.context(lm=lm):
                return x * len(predict(question="?").answer)

        for fn in (
            ask,
            lambda x: x * len(model.invoke("?").text),
            lambda x: x * len(dspy.settings.lm("?")[0]),
        ):
            with (
                dspy.context(lm=lm),
                pytest.raises(JitError, match=r"calls a model while it is compiled.*node before"),
            ):
                jit_edge(fn, in_keys=["x"], out_key="y").invoke({"x": 1.0})
        assert server.calls == []


# Arguments.


async def coroutine(x: Any) -> Any:
    return x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fn": 3}, r"fn=3; expected a function of numbers and arrays"),
        ({"fn": Scale}, r"fn=<class .*Scale'>; expected .* Make an instance of it"),
        ({"fn": RunnableLambda(lambda x: x)}, "expected a function of numbers"),
        ({"fn": coroutine}, "is async; expected a function that only computes"),
        (
            {"in_keys": "x"},
            r"in_keys='x' is a string; expected a list of state keys, such as in_keys=\['x'\]",
        ),
        ({"in_keys": []}, r"in_keys=\[\]; expected state keys"),
        ({"in_keys": 3}, r"in_keys=3; expected state keys"),
        ({"in_keys": [3]}, r"in_keys=3; expected the name of a state key"),
        ({"in_keys": {"x": 3}}, r"in_keys=3; expected the name of a state key"),
        ({"in_keys": ["x", "z"]}, r"fn\(x\) cannot be called with in_keys=\('x', 'z'\)"),
        ({"in_keys": {"z": "x"}}, r"fn\(x\) cannot be called with"),
        ({"out_key": 3}, r"out_key=3; expected the name of a state key"),
        ({"out_key": ["a", "a"]}, r"out_key=\['a', 'a'\]; expected a state key, or several that differ"),
        ({"out_key": []}, r"out_key=\[\]; expected a state key"),
        ({"static_keys": "x"}, r"static_keys='x' is a string; expected a list"),
        ({"static_keys": ["z"]}, r"static_keys has 'z'; expected some of in_keys, 'x'"),
        ({"ragged": ["z"]}, r"ragged has 'z'; expected some of in_keys"),
        (
            {"ragged": ["x"]},
            r"fn\(x\) cannot be called with in_keys=\('x',\) and mask=.*True for rows that are not padding",
        ),
        ({"ragged": ["x"], "static_keys": ["x"]}, r"'x' is in static_keys and in ragged"),
        ({"fn": lambda x, key: x}, r"missing a required argument: 'key'. Pass seed_key= and it gets key="),
        ({"seed_key": "seed"}, r"cannot be called with .* and key=.*With seed_key= it also gets key="),
        ({"seed_key": 3}, r"seed_key=3; expected the name of a state key"),
        ({"output": "nump"}, r"output='nump'; expected one of .* Did you mean 'numpy'"),
        ({"x64": 1}, r"x64=1; expected True or False"),
        ({"name": "a:b"}, r"name='a:b'; expected a node name"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: Any, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        jit_edge(**{"fn": lambda x: x, "in_keys": ["x"], "out_key": "y", **arguments})


def test_building_does_not_start_jax() -> None:
    edge = "jit_edge(abs, in_keys=['x'], out_key='y', device='gpu')"
    code = f"import sys; from mahsm import jit_edge; {edge}; print('jax' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.strip()
        == "False"
    )


def test_what_a_function_closes_over_may_be_a_random_key() -> None:
    key = jax.random.key(0)
    edge = jit_edge(lambda x: x + jax.random.normal(key), in_keys=["x"], out_key="y")
    assert edge.invoke({"x": 0.0}) == edge.invoke({"x": 0.0})


def test_rare_ints_come_out() -> None:
    assert outputs(lambda x: x.astype(jnp.int8)).dtype == np.int8
    assert outputs(lambda x: x.sum().astype(jnp.uint16)) == 3


def test_a_function_without_a_signature() -> None:
    assert jit_edge(min, in_keys=["x"], out_key="y").name == "jit_min"


@pytest.mark.filterwarnings("always:.*JAX is not installed")
def test_without_jax_a_warning_says_so_and_what_needs_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it really works without JAX is tested where JAX is not installed."""
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.warns(
        UserWarning,
        match="double: JAX is not installed, so this edge is not compiled.*pip install 'mahsm.jax.'",
    ):
        edge = double(name="double")
    assert edge.invoke({"xs": [1.0, 2.0]})["ys"].tolist() == [2.0, 4.0]
    for options, argument in (({"device": "cpu"}, "device="), ({"output": "jax"}, "output='jax'")):
        with pytest.raises(ImportError, match=f"{argument} needs JAX, which is not installed: pip install"):
            double(**options)


class Constant(eqx.Module):
    by: float = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        return x * self.by


def test_a_module_without_arrays_is_compared_by_value() -> None:
    edge = jit_edge(Constant(2.0), in_keys=["x"], out_key="y")
    assert edge.invoke({"x": 3.0}) == {"y": 6.0}
    edge.replace(Constant(2.0))
    with pytest.raises(EdgeError, match="in more than its arrays"):
        edge.replace(Constant(3.0))
