"""The state of a subgraph: what its tasks have handed in."""

from collections.abc import Sequence
from typing import Annotated, Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel, Topic
from langgraph.checkpoint.base import BaseCheckpointSaver
from typing_extensions import TypedDict

from mahsm._waiting import Way
from mahsm.edges._shared.saving import DURABILITY, SAVER


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
    """The same state, repeated in each checkpoint: for runs that save only one."""

    done: Annotated[list[Any], Topic(list, accumulate=True)]


async def keeps_history(way: Way, config: RunnableConfig) -> bool:
    """Return whether a run's results are read from the writes of earlier checkpoints.

    They are not with a checkpointer that keeps only the last one, nor with `durability="exit"`: LangGraph
    then saves once, and may lose such a write of a blocking task that ends while another one does.
    """
    own: dict[str, Any] = config.get("configurable", {})
    # A shallow checkpointer is known only by its name: ShallowPostgresSaver, AsyncShallowRedisSaver.
    saver = own.get(SAVER)
    if any("Shallow" in base.__name__ for base in type(saver).__mro__):
        return False
    if own.get(DURABILITY) != "exit" or not isinstance(saver, BaseCheckpointSaver):
        return True
    # An earlier run of the thread may have saved with another durability.
    known = cast("BaseCheckpointSaver[Any]", saver)
    place: RunnableConfig = {
        "configurable": {key: own[key] for key in ("thread_id", "checkpoint_ns") if key in own}
    }
    if "thread_id" not in own:
        return True
    found = await way.call(lambda: known.get_tuple(place), lambda: known.aget_tuple(place))
    return found is not None and not isinstance(found.checkpoint["channel_values"].get("done"), list)
