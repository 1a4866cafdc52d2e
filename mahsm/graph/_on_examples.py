"""A compiled graph, or a program of one, that is run on examples."""

from collections.abc import Mapping
from typing import Any, cast

import dspy
from langgraph.pregel import Pregel

from mahsm._common import shown
from mahsm.errors import GraphError
from mahsm.graph._module import GraphModule, LiveGraph


class OnExamples:
    """Runs a graph on examples, without its checkpointer and cache.

    Args:
        given: A compiled graph, or a `GraphModule`, whose own modules then run.

    Raises:
        GraphError: if it is neither.
    """

    def __init__(self, given: Any) -> None:
        if not isinstance(given, GraphModule | Pregel):
            raise GraphError(
                f"expected a compiled graph or a GraphModule; got {shown(given)}. Pass builder.compile()."
            )
        self._program = given if isinstance(given, GraphModule) else None
        self.graph: Any = given.graph if isinstance(given, GraphModule) else given
        self._live = LiveGraph(self.graph, {}, awaits=True, outputs=None)

    async def run(self, example: Any) -> dspy.Prediction:
        """Return the prediction for an example.

        Raises:
            GraphError: if the example is invalid, or the graph was interrupted.
        """
        inputs = self.inputs(example)
        if self._program is not None:
            return await self._program.acall(**inputs)
        self._live.check(inputs)
        return self._live.prediction(await self._live.runs.ainvoke(inputs), inputs)

    def inputs(self, example: Any) -> dict[str, Any]:
        """Return the inputs of an example: those that it declares, or its values for keys of the graph."""
        if isinstance(example, dspy.Example):
            if vars(example).get("_input_keys") is not None:
                return dict(cast("Any", example.inputs()).items())
            example = dict(cast("Any", example).items())
        if not isinstance(example, Mapping):
            raise GraphError(f"the example is {shown(example)}; expected a dict or a dspy.Example.")
        takes, values = self._live.takes, dict(cast("Mapping[str, Any]", example))
        return {key: value for key, value in values.items() if takes is None or key in takes}
