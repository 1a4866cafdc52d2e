"""What a dashboard of edges shows, asked of Langfuse's public API: cost, errors, 429s, cache hits, budgets,
the slowest item.

The traces go to a server on loopback that answers as Langfuse does. With your own project, take its URL and
keys, and leave out all that stands before `observations`.

Run it:  python examples/dashboard.py
"""

import json
from collections import Counter, defaultdict
from typing import Any, TypedDict

import dspy
import httpx
from langgraph.cache.memory import InMemoryCache
from langgraph.graph import END, START, StateGraph

from mahsm import Budget, Retry, connect, tracing, vmap
from mahsm.testing import LangfuseServer, ModelServer, Reply

# A graph to look at: tickets are labelled, of which one is slow, one busy at first, and one broken; and then
# some are answered.


class State(TypedDict, total=False):
    tickets: list[str]
    labels: list[Any]
    replies: list[str]


def provider(call):
    ticket = call.field("ticket")
    if "reply" in call.text:
        return Reply({"reply": f"We look into {ticket}."}, usage=(500, 200))
    if ticket == "busy" and call.repeats == 0:
        return Reply.rate_limited(0.01)
    if ticket == "broken":
        return Reply.failed(400)
    return Reply({"label": ticket}, usage=(1000, 100), latency=0.5 if ticket == "slow" else 0.0)


def each_ticket(ticket):
    return {"ticket": ticket}


label = vmap(
    dspy.Predict("ticket -> label"),
    batch_key="tickets",
    out_key="labels",
    item_to_state=each_ticket,
    result="label",
    retry=Retry(attempts=3, base=0.01),
    cache=InMemoryCache(),
    on_error="collect",
    name="label",
)
reply = vmap(
    dspy.Predict("ticket -> reply"),
    batch_key="tickets",
    out_key="replies",
    item_to_state=each_ticket,
    result="reply",
    budget=Budget(calls=2),
    max_concurrency=1,
    on_error="drop",
    name="reply",
)
graph = connect(StateGraph(State), START, label, reply, END).compile()


# What any dashboard can ask.


def observations(
    url: str, keys: tuple[str, str], fields: str, *conditions: dict[str, Any]
) -> list[dict[str, Any]]:
    """All observations that meet the conditions, page by page."""
    found: list[dict[str, Any]] = []
    query = {"fields": fields, "filter": json.dumps(conditions), "limit": "100"}
    while True:
        page = httpx.get(f"{url}/api/public/v2/observations", params=query, auth=keys).json()
        found += page["data"]
        if "cursor" not in page["meta"]:
            return found
        query["cursor"] = page["meta"]["cursor"]


def named(start: str) -> dict[str, Any]:
    return {"type": "string", "column": "name", "operator": "starts with", "value": start}


def of_type(kind: str) -> dict[str, Any]:
    return {"type": "string", "column": "type", "operator": "=", "value": kind}


def table(url: str, keys: tuple[str, str]) -> None:
    """One line for each edge."""
    runs: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in observations(url, keys, "basic,metadata", named("vmap:")):
        runs[run["name"]].append(
            {name.removeprefix("mahsm."): value for name, value in run["metadata"].items()}
        )

    def total(facts: list[dict[str, Any]], name: str) -> float:
        return sum(each.get(name, 0) for each in facts)

    print("edge        runs items errors retries 429s cached  cost USD  ended by")
    for edge, facts in sorted(runs.items()):
        errors = total(facts, "errors") / total(facts, "finished")
        counts = [int(total(facts, name)) for name in ("retries", "rate_limited", "cached_items")]
        ended = Counter(each["ended"] for each in facts if "ended" in each)
        print(
            f"{edge:12}{len(facts):4} {int(total(facts, 'fan_out')):5} {errors:6.0%} {counts[0]:7} "
            f"{counts[1]:4} {counts[2]:6} {total(facts, 'cost_usd'):9.5f}  "
            f"{', '.join(f'{count} by {one}' for one, count in ended.items()) or '-'}"
        )
    items = observations(url, keys, "basic,metadata,metrics", of_type("SPAN"))
    slowest = max(items, key=lambda item: item["latency"])
    print(f"the slowest item took half a second or more: {slowest['latency'] >= 0.5}")
    failed = [item for item in items if item["level"] == "ERROR"]
    print(
        "failed items:",
        sorted({(item["metadata"]["mahsm.index"], item["statusMessage"].split(":")[0]) for item in failed}),
    )


with LangfuseServer() as langfuse, ModelServer(provider) as server:
    handler = tracing.init("pk-dashboard", "sk-dashboard", langfuse.url)
    with dspy.context(
        lm=server.lm("openai/gpt-4o-mini"), adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)
    ):
        for _ in range(2):
            graph.invoke({"tickets": ["fine", "busy", "slow", "broken"]}, {"callbacks": [handler]})
    tracing.flush()
    tracing.off()
    table(langfuse.url, ("pk-dashboard", "sk-dashboard"))

# Output:
# edge        runs items errors retries 429s cached  cost USD  ended by
# vmap:label     2     8    25%       1    1      3   0.00063  -
# vmap:reply     2     8    50%       0    0      0   0.00078  2 by budget
# the slowest item took half a second or more: True
# failed items: [(3, 'LMInvalidRequestError')]
