"""Operators under JAX's and Equinox's transformations, and in files."""

import enum
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import dspy
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mahsm import jit_edge, vmap
from mahsm.operators import (
    ChainOperator,
    EnsembleOperator,
    HybridOperator,
    LearnableOperator,
    ModelBinding,
    ModelOperator,
    Operator,
    RouterOperator,
    combine,
    load,
    model_field,
    op,
    param,
    parameters,
    partition,
    prompt_field,
    save,
)


class Scale(LearnableOperator):
    name: str
    by: jax.Array = param(2.0)

    def forward(self, input: Any, /) -> Any:
        return input * self.by


class Mixed(Operator):
    """Models, prompts, clients, plain values, arrays and other operators in one."""

    model: Any = model_field(default="openai/a")
    prompt: str = prompt_field(template_vars=["x"], default="{x}")
    labels: tuple[str, ...] = ("a", "b")
    lm: dspy.LM = dspy.LM("openai/m")
    predict: dspy.Module = dspy.Predict("a -> b")
    options: dict[str, int] = {"k": 1}  # noqa: RUF012
    anything: Any = None
    weights: jax.Array
    members: list[Operator]
    named: dict[str, Operator]
    other: Operator

    def forward(self, input: Any, /) -> Any:
        found = self.other(input) + self.weights.sum()
        for member in (*self.members, *self.named.values()):
            found = member(found)
        return found


class Noisy(HybridOperator):
    by: jax.Array

    def compute(self, x: Any) -> Any:
        return x * self.by

    def forward(self, input: Any, computed: Any, /) -> Any:
        return computed


class ModuleRef(Operator):
    n: float

    def forward(self, input: Any, /) -> Any:
        return input * self.n


def mixed(anything: Any = None) -> Mixed:
    return Mixed(
        weights=jnp.arange(2.0),
        members=[Scale("m")],
        named={"n": Scale("n")},
        other=op(lambda x: x * 1.0),
        anything=anything,
    )


OPERATORS: dict[str, tuple[Any, int]] = {
    "plain": (Scale("a"), 1),
    "mixed": (mixed(), 3),
    "mixed with a function among the leaves": (mixed([len, "text", jnp.ones(1)]), 4),
    "nested": (
        Mixed(weights=jnp.ones(1), members=[mixed(), Scale("m")], named={"n": mixed()}, other=mixed()),
        11,
    ),
    "chain": (ChainOperator([Scale("a"), op(lambda x: x + 1)]), 1),
    "ensemble": (EnsembleOperator([Scale("a"), Scale("b")], combine=sum), 2),
    "module": (op(eqx.nn.MLP("scalar", "scalar", 4, 1, key=jax.random.key(0))), 4),
    "hybrid": (ChainOperator([op(lambda x: {"x": x}), Noisy(by=jnp.array(2.0))]), 1),
}

VALUES = OPERATORS.values()


@pytest.mark.parametrize(("operator", "arrays"), VALUES, ids=OPERATORS)
def test_partition_and_combine(operator: Any, arrays: int) -> None:
    numeric, rest = partition(operator)
    assert len(jax.tree.leaves(numeric)) == arrays
    again = combine(numeric, rest)
    assert again(3.0) == pytest.approx(operator(3.0))
    assert jax.tree.structure(again) == jax.tree.structure(operator)
    assert jax.jit(lambda numeric, x: combine(numeric, rest)(x))(numeric, 3.0) == pytest.approx(operator(3.0))
    assert jax.jit(lambda numeric, rest, x: combine(numeric, rest)(x))(numeric, rest, 3.0) == pytest.approx(
        operator(3.0)
    )
    assert partition(operator)[1] == rest
    assert hash(partition(operator)[1]) == hash(rest)


@pytest.mark.parametrize(("operator", "arrays"), VALUES, ids=OPERATORS)
def test_gradients_are_those_of_the_arrays(operator: Any, arrays: int) -> None:
    gradients = eqx.filter_grad(lambda operator, x: jnp.sum(operator(x)))(operator, 3.0)
    leaves = jax.tree.leaves(gradients)
    assert len(leaves) == arrays
    assert all(
        leaf.shape == value.shape
        for leaf, value in zip(leaves, jax.tree.leaves(partition(operator)[0]), strict=True)
    )
    step = jax.tree.map(
        lambda x, g: x - 0.1 * g, *(eqx.filter(each, eqx.is_array) for each in (operator, gradients))
    )
    assert eqx.combine(step, operator)(3.0) != operator(3.0)


@pytest.mark.parametrize(("operator", "arrays"), VALUES, ids=OPERATORS)
def test_equinoxs_transformations(operator: Any, arrays: int) -> None:
    expected = operator(3.0)
    assert eqx.filter_jit(operator)(3.0) == pytest.approx(expected)
    xs = jnp.array([3.0, 4.0])
    assert eqx.filter_vmap(operator)(xs)[0] == pytest.approx(expected)
    assert eqx.filter_vmap(lambda operator, x: operator(x), in_axes=(None, 0))(operator, xs)[
        0
    ] == pytest.approx(expected)
    place, last = [
        (place, leaf) for place, leaf in enumerate(jax.tree.leaves(operator)) if eqx.is_array(leaf)
    ][-1]
    changed = eqx.tree_at(lambda tree: jax.tree.leaves(tree)[place], operator, last * 5 + 1)
    assert changed(3.0) != pytest.approx(expected)


BARE = {
    name: value
    for name, value in OPERATORS.items()
    if name not in ("module", "mixed with a function among the leaves")
}


@pytest.mark.parametrize(("operator", "arrays"), BARE.values(), ids=BARE)
def test_jaxs_own_transformations(operator: Any, arrays: int) -> None:
    """Without filters, since whatever is no array is static."""
    expected = operator(3.0)
    assert jax.jit(lambda operator, x: operator(x))(operator, 3.0) == pytest.approx(expected)
    gradients = jax.grad(lambda operator: jnp.sum(operator(3.0)))(operator)
    assert len(jax.tree.leaves(gradients)) == arrays
    doubled = jax.tree.map(lambda x: x * 2, operator)
    assert len(jax.tree.leaves(doubled)) == arrays
    assert type(doubled) is type(operator)
    state = optax.adam(0.1).init(operator)
    updates, _ = optax.adam(0.1).update(gradients, state, operator)
    assert optax.apply_updates(operator, updates)(3.0) != pytest.approx(expected)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x * 2]), operator)
    assert jax.vmap(lambda operator, x: operator(x), in_axes=(0, None))(stacked, 3.0)[0] == pytest.approx(
        expected
    )


def test_static_fields_stay_in_gradients() -> None:
    gradients = jax.grad(lambda operator: operator(3.0))(mixed())
    assert (gradients.labels, gradients.prompt, gradients.model) == (
        ("a", "b"),
        "{x}",
        ModelBinding("openai/a"),
    )
    assert gradients.other.function is not None


def test_gradients_reach_the_routers_weights_and_nothing_else() -> None:
    models = {name: ModelOperator(f"openai/{name}", "{q}") for name in ("cheap", "good")}
    router = RouterOperator(models, 2, weights=np.ones((2, 2)))
    system = ChainOperator(
        [op(lambda x: x), EnsembleOperator([router, ModelOperator("openai/judge", signature="a -> b")])]
    )

    def loss(system: Any, x: Any) -> Any:
        return -jax.nn.log_softmax(system.steps[1].members[0].scores(x))[1]

    gradients = jax.jit(jax.grad(loss))(system, jnp.array([1.0, 2.0]))
    found = {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
    }
    assert sorted(found) == [".steps[1].members[0].bias", ".steps[1].members[0].weights"]
    assert all(bool((leaf != 0).any()) for leaf in found.values())
    learned = parameters(system)
    assert len(jax.tree.leaves(learned)) == 2
    optimiser = optax.sgd(1.0)
    updates, _ = optimiser.update(gradients, optimiser.init(learned), learned)
    assert loss(eqx.apply_updates(system, updates), jnp.array([1.0, 2.0])) < loss(
        system, jnp.array([1.0, 2.0])
    )


def test_a_router_learns() -> None:
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(200, 4)).astype(np.float32)
    best = (xs @ rng.normal(size=4) > 0).astype(int)
    router = RouterOperator({"a": op(lambda x: "a"), "b": op(lambda x: "b")}, 4)
    optimiser = optax.adam(0.1)

    @jax.jit
    def step(router: Any, state: Any) -> Any:
        def loss(router: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(router.scores)(xs), best).mean()

        updates, state = optimiser.update(jax.grad(loss)(router), state, router)
        return optax.apply_updates(router, updates), state

    state = optimiser.init(router)
    for _ in range(100):
        router, state = step(router, state)
    assert np.mean([router.choose(x) == "ab"[label] for x, label in zip(xs, best, strict=True)]) > 0.97


def test_an_operator_as_the_function_of_a_jit_edge() -> None:
    operator = mixed()
    edge = jit_edge(operator, in_keys=["x"], out_key="y")
    assert edge.invoke({"x": 3.0})["y"] == pytest.approx(float(operator(3.0)))
    edge.replace(eqx.tree_at(lambda tree: tree.weights, operator, jnp.ones(2) * 10))
    assert edge.invoke({"x": 3.0})["y"] == pytest.approx(92.0)
    assert edge.stats.compiles == 1
    ys = vmap(edge, batch_key="xs", out_key="ys", item_to_state=lambda x: {"x": x}, result="y").invoke(
        {"xs": [3.0, 4.0]}
    )["ys"]
    assert ys == pytest.approx([92.0, 96.0])


# In files.


class Labelled(LearnableOperator):
    labels: tuple[str, ...]
    weights: jax.Array
    extra: Any = None

    def forward(self, input: Any, /) -> Any:
        return self.weights @ input


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "operator"


def labelled(*labels: str, **options: Any) -> Labelled:
    return Labelled(labels or ("a", "b"), jnp.zeros((2, 3)), **options)


def test_arrays_of_all_kinds_come_back(path: Path) -> None:
    extra = {
        "bfloat16": jnp.ones(3, jnp.bfloat16) * 1.5,
        "number": jnp.array(2, jnp.int8),
        "key": jax.random.key(7),
        "numpy": np.arange(3.0),
        "numpy number": np.float64(0.1),
        "bool": jnp.array([True, False]),
        "empty": jnp.zeros((0, 2)),
        "text": "kept from the operator",
        "router": RouterOperator({"x": op(len)}, 2, weights=[[1.0, 2.0]]),
    }
    saved = Labelled(("a", "b"), jnp.arange(6.0).reshape(2, 3), extra=extra)
    save(path, saved)
    like = jax.tree.map(lambda leaf: leaf, saved)
    like = like.update_params(
        weights=jnp.zeros((2, 3)),
        extra={
            **extra,
            "bfloat16": jnp.zeros(3, jnp.bfloat16),
            "key": jax.random.key(0),
            "numpy": np.zeros(3),
        },
    )
    found = load(path, like)
    assert found.weights.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert (found.extra["bfloat16"].tolist(), found.extra["bfloat16"].dtype) == ([1.5] * 3, jnp.bfloat16)
    assert jax.random.uniform(found.extra["key"]) == jax.random.uniform(jax.random.key(7))
    assert type(found.extra["numpy"]) is np.ndarray
    assert found.extra["numpy number"] == 0.1
    assert found.extra["text"] == "kept from the operator"
    assert found.extra["router"].weights.tolist() == [[1.0, 2.0]]


def test_the_first_line_says_what_the_arrays_belong_to(path: Path) -> None:
    save(path, labelled())
    with path.open("rb") as file:
        header = json.loads(file.readline())
    assert header["class"] == f"{__name__}.Labelled"
    assert header["labels"] == [[".labels", ["a", "b"]]]
    assert header["arrays"] == [[".weights", "float32", [2, 3]]]
    assert "mahsm" in header


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (
            labelled("b", "a"),
            r"its labels has \['.labels', \['a', 'b'\]\], and the operator has \['.labels', \['b', 'a'\]\]",
        ),
        (
            Labelled(("a", "b"), jnp.zeros((3, 2))),
            r"its arrays has \['.weights', 'float32', \[2, 3\]\], and the operator has",
        ),
        (Labelled(("a", "b"), jnp.zeros((2, 3), jnp.int32), jnp.ones(1)), "its arrays has"),
        (labelled(extra=jnp.ones(1)), "its arrays has None, and the operator has|its arrays has"),
        (Scale("a"), r"its class is .*Labelled, and the operator's is .*Scale"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(path: Path, like: Any, message: str) -> None:
    save(path, labelled())
    with pytest.raises(ValueError, match=message):
        load(path, like)


def test_what_is_no_file_of_an_operator(path: Path) -> None:
    for content in (b"", b"text\nmore", b"[1]\n", b"3\n", b"{}\n"):
        path.write_bytes(content)
        with pytest.raises(
            ValueError,
            match=r"operator is not a file of an operator; expected a file that mahsm\.operators\.save wrote",
        ):
            load(path, labelled())
    path.write_bytes(b'{"format": 1, "mahsm": "0.7.0"}\n')
    with pytest.raises(
        ValueError, match=r"has format 1, of mahsm 0\.7\.0; expected 2\. Load it with that version"
    ):
        load(path, labelled())
    path.write_bytes(b'{"format": 2, "class": "a"}\n')
    with pytest.raises(ValueError, match=r"is damaged: its first line lacks 'arrays'"):
        load(path, labelled())


class Color(enum.Enum):
    RED = 1
    BLUE = 2


def test_labels_may_be_enums(path: Path) -> None:
    both = (Color.RED, Color.BLUE)
    save(path, Labelled(both, jnp.ones((2, 3))))
    assert load(path, Labelled(both, jnp.zeros((2, 3)))).weights.sum() == 6
    with pytest.raises(ValueError, match=r"its labels has .*Color.RED.*and the operator has .*Color.BLUE"):
        load(path, Labelled(both[::-1], jnp.zeros((2, 3))))


def test_a_file_stays_as_it_was_if_it_cannot_be_replaced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(path, labelled())
    before = path.read_bytes()
    with pytest.raises(
        TypeError,
        match=r"the label <object object at .*> cannot be saved; expected a string, a number or an enum",
    ):
        save(path, labelled(object()))  # type: ignore[arg-type]
    assert path.read_bytes() == before

    def full(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)  # the disk's, which no test can fill
    with pytest.raises(OSError, match="no space left"):
        save(path, Labelled(("a", "b"), jnp.ones((2, 3))))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_replaced_file_keeps_its_mode_and_its_links(path: Path) -> None:
    save(path, labelled())
    path.chmod(0o640)
    link = path.with_name("link")
    link.symlink_to(path)
    save(link, Labelled(("a", "b"), jnp.ones((2, 3))))
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert load(path, labelled()).weights.sum() == 6


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_file_that_is_cut_off(path: Path, cut: int) -> None:
    save(path, labelled())
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(
        ValueError, match=r"is damaged: it has \d+ bytes of arrays; expected \d+\. Save the operator again"
    ):
        load(path, labelled())
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="is not a file of an operator"):
        load(path, labelled())


SCRIPT = """
import sys
import jax.numpy as jnp
from mahsm.operators import LearnableOperator, load, param, save

class Router(LearnableOperator):
    by: object = param([1.0, 2.0])
    def forward(self, input):
        return input

if __name__ == "__main__":
    save(sys.argv[1], Router().update_params(by=[3.0, 4.0]))
"""


def test_what_a_script_has_trained_is_loaded_where_the_script_is_imported(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = path.with_name("trains_a_router.py")
    script.write_text(SCRIPT)
    subprocess.run([sys.executable, str(script), str(path)], check=True, cwd=Path(__file__).parents[2])
    monkeypatch.syspath_prepend(path.parent)
    router = importlib.import_module("trains_a_router").Router
    assert load(path, router()).by.tolist() == [3.0, 4.0]


def test_secrets_are_not_saved(path: Path) -> None:
    class Made(LearnableOperator):
        model: Any = model_field(api_key="hunter2")
        by: jax.Array = param(1.0)

        def forward(self, input: Any, /) -> Any:
            return input

    save(path, Made("openai/m"))
    assert b"hunter2" not in path.read_bytes()
    load(path, Made("openai/other"))


def test_the_rest_shows_what_it_is_of() -> None:
    assert repr(partition(Scale("a"))[1]) == "<Rest of Scale>"
    assert partition(Scale("a"))[1] != partition(Scale("b"))[1]
    assert partition([Scale("a")])[1] != 3


NUMBERS: list[Any] = [1, 1.0, True, 0.0, -0.0, 0, False]


@pytest.mark.parametrize("wrap", [lambda n: {"n": n}, ModuleRef], ids=["in a dict", "in a static field"])
def test_numbers_that_are_equal_do_not_share_a_compilation_of_the_rest(wrap: Any) -> None:
    traces: list[Any] = []

    @jax.jit
    def scaled(arrays: Any, rest: Any) -> Any:
        held, weights = combine(arrays, rest)
        number = held["n"] if isinstance(held, dict) else held.n
        traces.append(number)
        return jnp.copysign(1.0, number), weights * number

    for number in NUMBERS * 2:
        sign, product = scaled(*partition([wrap(number), jnp.array([2])]))
        assert (sign, product.dtype) == (jnp.copysign(1.0, number), (jnp.array([2]) * number).dtype)
    assert [(type(number), str(number)) for number in traces] == [
        (type(number), str(number)) for number in NUMBERS
    ]


def test_equal_rests_share_a_compilation() -> None:
    traces: list[Any] = []
    jitted = jax.jit(lambda arrays, rest: (traces.append(1), combine(arrays, rest).weights.sum())[1])
    for _ in range(3):
        jitted(*partition(mixed(["text", 1.0, jnp.ones(1)])))
    assert len(traces) == 1 + 2, "each has a function of its own"
    for _ in range(3):
        jitted(*partition(Labelled(("a",), jnp.ones((1, 3)), ["text", 1.0])))
    assert len(traces) == 4


def test_partition_is_equinoxs() -> None:
    for operator, _ in VALUES:
        ours, theirs = partition(operator), eqx.partition(operator, eqx.is_array)
        assert eqx.tree_equal(ours[0], theirs[0])
        assert eqx.tree_equal(ours[1].tree, theirs[1])


def test_a_rest_that_can_be_compared_but_not_hashed() -> None:
    class Odd:
        __hash__ = None  # type: ignore[assignment]

    odd = Odd()
    numeric, rest = partition([odd, jnp.ones(1)])
    assert rest == rest
    assert hash(rest) == hash(rest)
    assert rest != partition([odd, jnp.ones(1)])[1], "nobody can say"
    assert combine(numeric, rest)[0] is odd


def test_labels_of_operators_in_lists(path: Path) -> None:
    save(path, [labelled("x", "y")])
    with pytest.raises(ValueError, match=r"its labels has \['\[0\].labels', \['x', 'y'\]\]"):
        load(path, [labelled("y", "x")])
