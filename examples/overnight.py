"""Submit in the evening, end the process, and come back in the morning, at half the price:
`python examples/overnight.py FOLDER`.

Each time, it looks at the batch job, and either says how far it is and ends, or goes on and prints the
result. FOLDER has what is known of the run. The model is OpenAI's, with the key in `OPENAI_API_KEY`. Without
FOLDER, it plays one night: two processes of itself, over a server on loopback.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, TypedDict

import dspy
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

import mahsm
from mahsm import BatchAPI, connect, vmap
from mahsm.testing import Call, ModelServer, Reply

REVIEWS = [f"Parcel {number} was {word}." for number in range(100) for word in ("late", "fine")]


class State(TypedDict):
    reviews: list[str]
    labels: list[str]


def come_back(folder: str) -> None:
    """Begin the run, or go on with it."""
    labels = vmap(
        dspy.Predict("review -> label"),
        batch_key="reviews",
        out_key="labels",
        item_to_state=lambda review: {"review": review},
        result="label",
        batch_api=BatchAPI(wait="interrupt"),
        name="labels",
    )
    config: Any = {"configurable": {"thread_id": "reviews"}}
    dspy.configure(lm=dspy.LM("openai/gpt-4o-mini", api_base=os.environ.get("API_BASE"), cache=False))
    with SqliteSaver.from_conn_string(f"{folder}/overnight.sqlite") as saver, mahsm.usage() as used:
        graph = connect(StateGraph(State), START, labels, END).compile(checkpointer=saver)
        begun = saver.get_tuple(config) is not None
        state = graph.invoke(Command(resume="look") if begun else {"reviews": REVIEWS}, config)
    for question in state.get("__interrupt__", ()):
        for job in question.value["batch_jobs"]:
            print(f"{job['id']}: {job['status']}, {job['completed']} of {job['requests']} are answered")
        return
    print(f"{state['labels'].count('bad')} of {len(REVIEWS)} are bad; {used.usd:.5f} US dollars")


def rate(call: Call) -> Reply:
    return Reply({"label": "bad" if "late" in call.field("review") else "good"}, usage=(150, 10))


def play_a_night() -> None:
    """Run this script in the evening, and again in the morning."""
    with ModelServer(rate) as server, tempfile.TemporaryDirectory() as folder:
        server.jobs.hold_next()
        env = {**os.environ, "API_BASE": server.base_url, "OPENAI_API_KEY": "test"}
        command = [sys.executable, str(Path(__file__)), folder]
        for time in ("evening", "morning"):
            print(f"{time}:", flush=True)
            subprocess.run(command, env=env, check=True)
            server.jobs.finish()
        print(f"{len(server.jobs.ids)} job, {len(server.bill)} answers were charged")


if len(sys.argv) > 1:
    come_back(sys.argv[1])
else:
    play_a_night()

# Output:
# evening:
# batch_00000001: queued, 0 of 200 are answered
# morning:
# 100 of 200 are bad; 0.00285 US dollars
# 1 job, 200 answers were charged
