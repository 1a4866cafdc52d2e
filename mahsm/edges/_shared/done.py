"""The state of a subgraph: what its tasks have handed in."""

from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel, Topic
from typing_extensions import TypedDict

from mahsm.edges._shared.saving import SAVER


def _joined(done: list[Any], written: Sequence[list[Any]]) -> list[Any]:
    return [*done, *(one for many in written for one in many)]


_SNAPSHOT_FREQUENCY = 5000
"""LangGraph's own bound on the steps after which it stores the whole value once."""


class Done(TypedDict):
    """What tasks have handed in. Batch and parent's state stay outside, so that no checkpoint repeats them.

    LangGraph saves what a task has written when the task ends. No checkpoint after that repeats it: a resumed
    run reads it from there.
    """

    done: Annotated[list[Any], DeltaChannel(_joined, list, snapshot_frequency=_SNAPSHOT_FREQUENCY)]


class RepeatedDone(TypedDict):
    """The same state, for a checkpointer that keeps only the last checkpoint."""

    done: Annotated[list[Any], Topic(list, accumulate=True)]


def keeps_history(config: RunnableConfig) -> bool:
    """Return whether the checkpointer of a run keeps earlier checkpoints and their writes."""
    # A shallow checkpointer is known only by its name: ShallowPostgresSaver, AsyncShallowRedisSaver.
    saver = config.get("configurable", {}).get(SAVER)
    return not any("Shallow" in base.__name__ for base in type(saver).__mro__)
