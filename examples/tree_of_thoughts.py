"""A tree of thoughts: an ordinary recursive function, whose calls of a model run beside each other."""

import time

import dspy

from mahsm import xcs
from mahsm.testing import ModelServer


def answer(call) -> dict[str, str]:
    time.sleep(0.05)  # a model takes its time
    thought = call.text.rsplit("Thought:", 1)[-1].split("\n")[0].strip()
    return {"next": f"{thought}.", "score": str(len(thought))}


extend = dspy.Predict("thought, direction -> next")
rate = dspy.Predict("thought -> score: float")


@xcs.jit
def think(thought: str, depth: int) -> list[tuple[float, str]]:
    """Return the thoughts at the ends of a tree, with their scores."""
    if depth == 0:
        return [(rate(thought=f"Thought: {thought}").score, thought)]
    found = []
    for direction in ("left", "right"):
        step = extend(thought=f"Thought: {thought} {direction}", direction=direction)
        found += think(step.next, depth - 1)
    return found


def main() -> None:
    with ModelServer(answer) as server, dspy.context(lm=server.lm()):
        best, thought = max(think("start", 3))
        print(f"the best thought has a score of {best:g}: {thought}")
        print(f"{len(server.calls)} calls")


if __name__ == "__main__":
    main()

# Output:
# the best thought has a score of 26: start right. right. right.
# 22 calls
