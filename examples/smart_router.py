"""A router learns which questions need the good model; its models stay as they are."""

from typing import TypedDict

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from langgraph.graph import END, START, StateGraph

from mahsm import connect, vmap
from mahsm.operators import ModelOperator, RouterOperator, parameters
from mahsm.testing import ModelServer


class State(TypedDict):
    questions: list[str]
    answers: list[str]


def features(question):
    """How long it is, and whether it asks for reasons."""
    return np.array([len(question) / 40 - 1, 1.0 if "why" in question.lower() else -1.0])


def answer(call):  # stands in for two models
    return f"{call.model}: {call.text.splitlines()[-1]}"


def learned(router, seen, needed_good):
    """The router after learning from questions of which it is known whether they needed the good model."""
    xs, best = jnp.stack([features(question) for question in seen]), jnp.array(needed_good, int)
    optimiser = optax.adam(0.1)

    @eqx.filter_jit
    def step(router, state):
        def loss(router):
            return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(router.scores)(xs), best).mean()

        updates, state = optimiser.update(eqx.filter_grad(loss)(router), state)
        return eqx.apply_updates(router, updates), state

    state = optimiser.init(parameters(router))
    for _ in range(100):
        router, state = step(router, state)
    return router


with ModelServer(answer) as server:
    routes = {name: ModelOperator(server.lm(f"openai/{name}"), "{question}") for name in ("cheap", "good")}
    router = learned(
        RouterOperator(routes, features=2),
        [
            "What is 2 + 2?",
            "Why is the sky blue?",
            "Who wrote Emma?",
            "Why do buckets leak more slowly than they fill?",
        ],
        [False, True, False, True],
    )
    edge = vmap(
        router,
        batch_key="questions",
        out_key="answers",
        item_to_state=lambda question: {"question": question, "features": features(question)},
    )
    graph = connect(StateGraph(State), START, edge, END).compile()
    for line in graph.invoke({"questions": ["What is a token?", "Why is a token not a word?"]})["answers"]:
        print(line)

# Output:
# cheap: What is a token?
# good: Why is a token not a word?
