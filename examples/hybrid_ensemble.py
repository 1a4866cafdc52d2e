"""A hybrid ensemble: draws for all questions at once which models to ask, asks those, and weighs what they
say."""

from typing import TypedDict

import jax
from langgraph.graph import END, START, StateGraph

from mahsm import connect, vmap
from mahsm.operators import HybridOperator, ModelOperator, Operator
from mahsm.reducers import weighted_vote
from mahsm.testing import ModelServer


class State(TypedDict):
    questions: list[str]
    seed: int
    answers: list[str]


class Ensemble(HybridOperator):
    """Asks `ask` models, drawn by how good they are, and lets their votes count by that."""

    members: dict[str, Operator]
    ask: int
    quality: jax.Array  # how good each model is, as a logit; it could be learned

    def compute(self, *, key):
        """Draws without repetition: the highest sums of logits and Gumbel noise (Kool, van Hoof and Welling
        2019)."""
        noise = jax.random.gumbel(key, self.quality.shape)
        _, drawn = jax.lax.top_k(self.quality + noise, self.ask)
        return {"drawn": drawn, "weights": jax.nn.softmax(self.quality)[drawn]}

    async def forward(self, input, computed):
        members = list(self.members.values())
        votes = [
            {"answer": await members[place].acall(input), "weight": float(weight)}
            for place, weight in zip(computed["drawn"], computed["weights"], strict=True)
        ]
        return weighted_vote(votes, weight="weight", key="answer")


def answer(call):  # stands in for three models, one of which is always wrong
    right = {"2 + 2": "4", "3 * 3": "9", "10 - 7": "3"}[call.text.splitlines()[-1]]
    return "42" if call.model == "wrong" else right


with ModelServer(answer) as server:
    members = {
        name: ModelOperator(server.lm(f"openai/{name}"), "{question}") for name in ("small", "large", "wrong")
    }
    ensemble = Ensemble(members, ask=2, quality=jax.numpy.array([1.0, 2.0, -1.0]))
    edge = vmap(
        ensemble,
        batch_key="questions",
        out_key="answers",
        item_to_state=lambda question: {"question": question},
    )
    graph = connect(StateGraph(State), START, edge, END).compile()
    print(graph.invoke({"questions": ["2 + 2", "3 * 3", "10 - 7"], "seed": 1})["answers"])
    print(len(server.calls), "calls")

# Output:
# ['4', '9', '3']
# 6 calls
