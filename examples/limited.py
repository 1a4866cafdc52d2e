"""Two edges share the limit of one provider, which fails sometimes; nothing is lost and nothing is
refused."""

from typing import TypedDict

import dspy
from langgraph.graph import END, START, StateGraph

from mahsm import RateLimit, Retry, connect, limits, vmap
from mahsm.testing import Provider


class State(TypedDict):
    docs: list[str]
    summaries: list[str]
    titles: list[str]


openai = RateLimit("openai", rps=100, burst=10, retry=Retry(attempts=8, base=0.01))
options = {"batch_key": "docs", "item_to_state": lambda doc: {"doc": doc}, "max_concurrency": 16}
short = vmap(
    dspy.Predict("doc -> summary"),
    out_key="summaries",
    result="summary",
    rate_limit=openai,
    name="sums",
    **options,
)
titles = vmap(
    dspy.Predict("doc -> title"),
    out_key="titles",
    result="title",
    rate_limit="openai",
    name="title",
    **options,
)
builder = StateGraph(State)
connect(builder, START, short, END)
graph = connect(builder, START, titles, END).compile()  # both at the same time

# The provider stands in for a real one, and fails every tenth call.
answer = {"summary": "short", "title": "A title"}
with Provider(rps=100, burst=20, failures=0.1, answer=answer) as provider, dspy.context(lm=provider.lm()):
    state = graph.invoke({"docs": [f"document {number}" for number in range(40)]})
    report = provider.report()

print(
    len(state["summaries"]),
    "summaries,",
    len(state["titles"]),
    "titles,",
    report.statuses.get(429, 0),
    "refused",
)
print(limits.stats()["openai"].admitted == report.calls)

# Output:
# 40 summaries, 40 titles, 0 refused
# True
