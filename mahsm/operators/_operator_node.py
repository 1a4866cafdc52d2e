"""`operator_node`: an operator as a LangGraph node."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig

from mahsm import _spans
from mahsm._common import Overlay, State, as_dict, cached, shown
from mahsm._waiting import tasks
from mahsm.errors import NodeError
from mahsm.nodes._internal import ModuleRef, Node, is_item, node_name, node_of
from mahsm.operators._hybrid import HybridOperator, computing
from mahsm.operators._io import Boundary, Names
from mahsm.operators._modules import modules_in, with_modules
from mahsm.operators._operator import Operator, without_forward
from mahsm.operators._specs import described, fits, spec_fields

COMPUTED = "mahsm:computed"
"""State key of an item's result, if a hybrid operator was computed for all items in one call."""


class OperatorNode(Node):
    """An operator with its input and output mapped to state keys. Made by `operator_node`.

    Attributes:
        op: The operator.
    """

    def __init__(
        self,
        op: Operator,
        *,
        input_fields: Names | None = None,
        output_fields: Names | None = None,
        name: str | None = None,
        any_value: bool = False,
    ) -> None:
        name = name or node_name(getattr(op, "name", None) or type(op).__name__)
        if (problem := without_forward(op)) is not None:
            raise NodeError(f"node {name!r}: {problem}")
        super().__init__(self._run, self._run_async, name=name)
        self.op = op
        self._boundary = Boundary(f"operator_node {name!r}", op, input_fields, output_fields)
        self._any_value = any_value
        self._awaits = op.awaits
        self.held: Mapping[str, ModuleRef] = {where: ModuleRef(module) for where, module in modules_in(op)}

    @property
    def is_async(self) -> bool:
        """True if the operator is awaited; otherwise it runs in a thread."""
        return self._awaits

    @property
    def reads(self) -> frozenset[str]:
        """The state keys that are known to be read."""
        return self._boundary.reads

    @property
    def writes(self) -> frozenset[str]:
        """The state keys that are known to be written."""
        return self._boundary.writes

    def _run(self, state: Any, config: RunnableConfig) -> Any:
        values = as_dict(state)
        computed = self._take_computed(values)
        with _spans.node(config):
            result = tasks.call(partial(self._current, self._boundary.input(values), *computed))
        return self._boundary.update(result, any_value=self._any_value)

    async def _run_async(self, state: Any, config: RunnableConfig) -> Any:
        values = as_dict(state)
        computed = self._take_computed(values)
        with _spans.node(config):
            result = await self._current.acall(self._boundary.input(values), *computed)
        return self._boundary.update(result, any_value=self._any_value)

    @property
    def _current(self) -> Operator:
        """The operator with the DSPy modules that a `GraphModule` may have substituted in this context."""
        return (
            with_modules(self.op, {where: held.current for where, held in self.held.items()})
            if self.held
            else self.op
        )

    # The array part of a hybrid operator.

    def _take_computed(self, values: State) -> tuple[Any, ...]:
        """Take the computed result of this item out of its state, or compute it."""
        if self._program is None:
            return ()
        computed = values.pop(COMPUTED, None) or self._program(values)
        if isinstance(computed, Exception):
            raise computed
        return (computed["computed"],)

    @cached
    def _program(self) -> Any:
        return (
            computing(self.op, self._boundary.names, self.name or "")
            if isinstance(self.op, HybridOperator)
            else None
        )

    @property
    def batched(self) -> Any:
        """Function that computes all items of an edge in one call and adds the results to their overlays."""
        return None if self._program is None else self._computed

    def _computed(self, state: State, overlays: Sequence[Overlay]) -> list[Overlay]:
        found = self._program.batch(state, overlays).outcomes
        return [{**overlay, COMPUTED: computed} for overlay, computed in zip(overlays, found, strict=True)]


def operator_node(
    op: Operator,
    /,
    *,
    input_fields: Names | None = None,
    output_fields: Names | None = None,
    name: str | None = None,
) -> OperatorNode:
    """Make a LangGraph node from an operator.

    Args:
        op: The operator.
        input_fields: A state key whose value is the input; or the fields of the input: a list of names that
            are also state keys, or `{field: state key}`. By default the fields of the operator's
            `input_spec`; without a spec, the whole state as a dict.
        output_fields: A state key for the output; or the fields of the output to write, likewise. By default
            all fields.
        name: Node name; by default the name of the operator's class.

    Returns:
        A node that returns plain values: JAX arrays become NumPy arrays, which a checkpointer can store.

    Raises:
        NodeError: immediately, if `op` is not an operator; when run, if the output lacks a field.
        MissingKeyError: when run, if the state lacks a key.

    Example:
        >>> from mahsm import operator_node
        >>> from mahsm.operators import op
        >>> node = operator_node(op(str.upper), input_fields="text", output_fields="loud")
        >>> node.invoke({"text": "token"})
        {'loud': 'TOKEN'}
    """
    if not isinstance(op, Operator):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise NodeError(
            f"operator_node: got {shown(op)}; expected an Operator. Make one from a function with "
            "mahsm.operators.op."
        )
    return OperatorNode(op, input_fields=input_fields, output_fields=output_fields, name=name)


@node_of.register(Operator)
def _node_of(op: Operator) -> OperatorNode:
    if isinstance(op, HybridOperator) or not _takes_item(op.input_spec):
        return OperatorNode(op, any_value=True)
    # As a function whose parameter is a string, say, gets the item and not the state.
    node = OperatorNode(op, input_fields="item", any_value=True)
    node.item = described(op.input_spec)
    return node


def _takes_item(spec: Any) -> bool:
    """Return whether a spec is of an item: whether no state fits it."""
    return is_item(spec) and not spec_fields(spec) and not fits(spec, {})
