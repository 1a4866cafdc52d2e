"""A `ModelBinding` as a LangGraph node."""

from typing import Any

from langchain_core.runnables import RunnableConfig

from mahsm import _spans
from mahsm._common import as_dict, missing
from mahsm.errors import MissingKeyError
from mahsm.nodes._internal import Node, node_name


class BindingNode(Node):
    """A model as a node: from a prompt in the state to a text.

    Attributes:
        binding: The `ModelBinding`.
    """

    def __init__(self, binding: Any, input_key: str, output_key: str | None) -> None:
        super().__init__(self._run, self._run_async, name=node_name(binding.model or "model"))
        self.binding = binding
        self._input_key = input_key
        self._output_key = output_key

    @property
    def reads(self) -> frozenset[str]:
        """The state key of the prompt."""
        return frozenset((self._input_key,))

    @property
    def writes(self) -> frozenset[str]:
        """The state key of the text, if it has one."""
        return frozenset() if self._output_key is None else frozenset((self._output_key,))

    def _run(self, state: Any, config: RunnableConfig) -> Any:
        prompt = self._prompt(state)
        with _spans.node(config):
            return self._update(self.binding(prompt).text)

    async def _run_async(self, state: Any, config: RunnableConfig) -> Any:
        prompt = self._prompt(state)
        with _spans.node(config):
            return self._update((await self.binding.acall(prompt)).text)

    def _prompt(self, state: Any) -> Any:
        values = as_dict(state)
        if self._input_key not in values:
            raise MissingKeyError(
                f"{self.name}: {missing(values, self._input_key, 'the state')} It is the prompt; name "
                "another key with as_node(input_key=...)."
            )
        return values[self._input_key]

    def _update(self, text: str) -> Any:
        return text if self._output_key is None else {self._output_key: text}


def binding_node(binding: Any, input_key: str, output_key: str | None) -> BindingNode:
    """Return a binding as a node."""
    return BindingNode(binding, input_key, output_key)
