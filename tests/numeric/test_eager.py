"""What a `jit_edge` does without JAX, here beside it: the same results by the same rules."""

from typing import Any

import numpy as np
import pytest

from mahsm._numeric.eager import EagerProgram
from mahsm._numeric.program import Program
from mahsm._numeric.spec import JitSpec, Step
from mahsm.errors import MissingKeyError, StateError


def softmax(x: Any) -> Any:
    xp = x.__array_namespace__()
    e = xp.exp(x - xp.max(x))
    return e / xp.sum(e)


def cosine(x: Any, by: Any) -> Any:
    xp = x.__array_namespace__()
    return {"norm": xp.sqrt(xp.sum(x * x)) * by["k"], "order": xp.argsort(x), "none": None}


def masked(x: Any, mask: Any) -> Any:
    xp = x.__array_namespace__()
    return xp.sum(xp.where(mask, x, 0)) / xp.sum(mask)


STEPS: dict[str, tuple[Step, dict[str, Any]]] = {
    "softmax": (Step("softmax", softmax, ["x"], ("y",), single=True), {"x": [1.0, 2.0, 3.0]}),
    "containers": (
        Step("cosine", cosine, ["x", "by"], ("y",), single=True),
        {"x": np.arange(3), "by": {"k": 2.0, "on": True}},
    ),
    "by name": (
        Step("minus", lambda a, b: a - b, {"b": "x", "a": "z"}, ("y",), single=True),
        {"x": 1, "z": 3},
    ),
    "two keys": (Step("pair", lambda x: (x.min(), x.max()), ["x"], ("y", "z"), single=False), {"x": [1, 2]}),
    "ragged": (
        Step("masked", masked, ["x"], ("y",), single=True, ragged=frozenset("x"), takes_mask=True),
        {"x": [1.0, 2.0, 3.0]},
    ),
}


def spec_of(step: Step, **options: Any) -> JitSpec:
    return JitSpec(step.name, (step,), step.out_keys, **options)


@pytest.mark.parametrize(("step", "state"), STEPS.values(), ids=STEPS)
def test_results_are_those_of_jax(step: Step, state: dict[str, Any]) -> None:
    eager, compiled = EagerProgram(spec_of(step)), Program(spec_of(step))
    eager.warmup(state)
    np.testing.assert_equal(_rounded(eager(state)), _rounded(compiled(state)))
    assert (eager.stats.calls, eager.stats.compiles) == (1, 0)
    found = eager.batch({}, [state, {**state, "x": object()}, {}])
    one, wrong, missing = found.outcomes
    np.testing.assert_equal(_rounded(one), _rounded(compiled(state)))
    assert (type(wrong), type(missing)) == (StateError, MissingKeyError)
    assert found.failed == {1: wrong, 2: missing}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return None if value is None else np.round(np.asarray(value, float), 5)


def test_the_input_is_neither_changed_nor_kept() -> None:
    x = np.ones(2, np.float32)
    same = EagerProgram(spec_of(Step("same", lambda x: x, ["x"], ("y",), single=True)))({"x": x})["y"]
    x[:] = 7
    assert same.tolist() == [1.0, 1.0]

    def in_place(x: Any) -> Any:
        x += 1
        return x

    with pytest.raises(ValueError, match="read-only"):
        EagerProgram(spec_of(Step("in place", in_place, ["x"], ("y",), single=True)))({"x": x})


def test_another_function_takes_its_place() -> None:
    program = EagerProgram(spec_of(STEPS["by name"][0]))
    program.replace(0, lambda a, b: a * 100)
    assert program({"x": 1, "z": 3}) == {"y": 300}
