"""`dspy_node`: a DSPy module as a LangGraph node."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeAlias, cast, overload

import dspy
from langchain_core.runnables import RunnableConfig

from mahsm import _spans
from mahsm._state import as_dict, missing, shown
from mahsm._types import State
from mahsm._watch import watched
from mahsm.errors import MissingKeyError, NodeError
from mahsm.limits import RateLimit
from mahsm.limits._admission import Limited
from mahsm.nodes._held import Held
from mahsm.nodes._node import Node, node_name
from mahsm.nodes._target import provider_of
from mahsm.policies._budget import check_budgets

Fields: TypeAlias = Sequence[str] | Mapping[str, str]
"""Names of a module's fields; or from each field to the state key that it is read from or written to."""


class DSPyNode(Node):
    """A DSPy module between state keys and its fields. Made by `dspy_node`.

    It holds the module itself and calls it as DSPy does, so what `set_lm` or a new demo does to `module` counts here.
    """

    def __init__(
        self,
        module: dspy.Module,
        *,
        input_fields: Fields | None = None,
        output_fields: Fields | None = None,
        rate_limit: RateLimit | Mapping[str, Any] | str | None = None,
        name: str | None = None,
    ) -> None:
        name = name or node_name(type(module).__name__)
        super().__init__(self._run, self._run_async, name=name)
        self._held = Held(module)
        self.held = {"": self._held}
        self._reader = f"dspy_node {name!r}"
        self._limit = None if rate_limit is None else RateLimit.of(rate_limit)
        required, optional = _input_names(module)
        if input_fields is None:
            if not required and not optional:
                raise NodeError(
                    f"{self._reader}: {type(module).__name__}.forward names no inputs, and there is no signature to take them "
                    "from. Pass input_fields=[...]."
                )
            self._inputs = {field: field for field in (*required, *optional)}
        else:
            self._inputs = _mapping(self._reader, "input_fields", input_fields)
            if lacking := [field for field in required if field not in self._inputs]:
                raise NodeError(f"{self._reader}: input_fields={shown(input_fields)} lacks {lacking}, which the module needs.")
        self._required = frozenset(self._inputs) - frozenset(optional)
        self._outputs = None if output_fields is None else _mapping(self._reader, "output_fields", output_fields)

    @property
    def module(self) -> dspy.Module:
        """The DSPy module; inside a `GraphModule`, its copy."""
        return self._held.current

    @property
    def is_async(self) -> bool:
        """Whether the module can be awaited; if not, it runs in a thread."""
        return hasattr(type(self.module), "aforward")

    @property
    def reads(self) -> frozenset[str]:
        """The state keys that it reads, if they are there."""
        return frozenset(self._inputs.values())

    @property
    def writes(self) -> frozenset[str]:
        """The state keys that it is known to write."""
        if self._outputs is not None:
            return frozenset(self._outputs.values())
        signature = _signature(self.module)
        return frozenset() if signature is None else frozenset(signature.output_fields)

    def _run(self, state: Any, config: RunnableConfig) -> State:
        arguments = self._arguments(state)
        with self._traced(config), self._admitted(state, arguments):
            return self._update(self.module(**arguments))

    async def _run_async(self, state: Any, config: RunnableConfig) -> State:
        arguments = self._arguments(state)
        with self._traced(config):
            return await self._called(state, arguments)

    async def _called(self, state: Any, arguments: dict[str, Any]) -> State:
        async with self._admitted(state, arguments):
            if self.is_async:
                return self._update(await self.module.acall(**arguments))
            return self._update(await asyncio.to_thread(self.module, **arguments))

    @contextmanager
    def _traced(self, config: RunnableConfig) -> Generator[None, None, None]:
        """A block whose calls of models traces show, below the node."""
        if _spans.tracer() is None:
            yield
            return
        with _spans.node(config), watched():
            yield

    def _admitted(self, state: Any, arguments: dict[str, Any]) -> Any:
        """A block for `with` and `async with` that is the call; it begins when the rate limit and budgets allow it.

        Raises:
            BudgetExceeded: if a budget is spent, and no edge that has begun the call is around.
        """
        check_budgets()
        if self._limit is None:
            return nullcontext()
        return Limited.of(self._limit, lambda: provider_of(self.module)).block(as_dict(state), arguments)

    def _arguments(self, state: Any) -> dict[str, Any]:
        values = as_dict(state)
        for field, key in self._inputs.items():
            if key not in values and field in self._required:
                raise MissingKeyError(
                    f"{self._reader}: {missing(values, key)} Its module needs {field!r}: write the key first, or pass "
                    f"input_fields={{{field!r}: <state key>}}."
                )
        return {field: values[key] for field, key in self._inputs.items() if key in values}

    def _update(self, result: object) -> State:
        if not isinstance(result, dspy.Example | Mapping):  # a Prediction is an Example
            raise NodeError(
                f"{self._reader}: the module returned {shown(result)}; expected a dspy.Prediction or a dict. Return "
                "dspy.Prediction(name=value)."
            )
        update = cast("State", _plain(result))
        if self._outputs is None:
            return update
        for field in self._outputs:
            if field not in update:
                raise NodeError(f"{self._reader}: {missing(update, field, 'the prediction')} Change output_fields.")
        return {key: update[field] for field, key in self._outputs.items()}


@overload
def dspy_node(
    module: dspy.Module,
    /,
    *,
    input_fields: Fields | None = None,
    output_fields: Fields | None = None,
    rate_limit: RateLimit | Mapping[str, Any] | str | None = None,
    name: str | None = None,
) -> DSPyNode: ...
@overload
def dspy_node(
    module: type[dspy.Module],
    /,
    *,
    input_fields: Fields | None = None,
    output_fields: Fields | None = None,
    rate_limit: RateLimit | Mapping[str, Any] | str | None = None,
    name: str | None = None,
) -> Callable[..., DSPyNode]: ...
@overload
def dspy_node(
    *,
    input_fields: Fields | None = None,
    output_fields: Fields | None = None,
    rate_limit: RateLimit | Mapping[str, Any] | str | None = None,
    name: str | None = None,
) -> Callable[[type[dspy.Module]], Callable[..., DSPyNode]]: ...
def dspy_node(
    module: Any = None,
    /,
    *,
    input_fields: Fields | None = None,
    output_fields: Fields | None = None,
    rate_limit: RateLimit | Mapping[str, Any] | str | None = None,
    name: str | None = None,
) -> Any:
    """Make a LangGraph node of a DSPy module; or, as a decorator, of each instance of a class.

    Args:
        module: A module, or a class of modules. A decorated class makes nodes: `Summarize(...)` is then a node whose
            `module` is the instance, and the class itself is `Summarize.__wrapped__`.
        input_fields: Inputs of the module: names that are both field and state key, or `{field: state key}`. By default
            what `forward` takes, or the inputs of its signature.
        output_fields: Outputs that go into the state, likewise; by default all. LangGraph drops keys that the state schema
            lacks.
        rate_limit: What the provider allows: a `RateLimit`, its arguments as a dict, or the name of a provider that has one.
            In an edge that waits for the same provider, its items do not wait twice.
        name: Node name; by default the class's.

    Returns:
        A node that gives plain values, never a `Prediction`: nested predictions become dicts, pydantic models stay.

    Raises:
        NodeError: at once, if this is no DSPy module or its inputs cannot be told; when run, if an output is missing.
        MissingKeyError: when run, if the state lacks a required input.

    Example:
        >>> import dspy
        >>> from mahsm import dspy_node
        >>> node = dspy_node(dspy.Predict("text -> summary"), input_fields={"text": "doc"}, output_fields=["summary"])
        >>> with dspy.context(lm=dspy.utils.DummyLM([{"summary": "short"}])):
        ...     node.invoke({"doc": "a long text"})
        {'summary': 'short'}
    """
    options: Any = {"input_fields": input_fields, "output_fields": output_fields, "rate_limit": rate_limit, "name": name}
    wrap = functools.partial(DSPyNode, **options)
    if module is None:
        return functools.partial(dspy_node, **options)
    if isinstance(module, dspy.Module):
        return wrap(module)
    given = shown(module)
    if not (isinstance(module, type) and issubclass(module, dspy.Module)):
        raise NodeError(f"dspy_node: got {given}; expected a dspy.Module, or a class of them.")

    def make(*args: Any, **kwargs: Any) -> DSPyNode:
        return wrap(module(*args, **kwargs))

    functools.update_wrapper(make, module, updated=())
    return make


def _input_names(module: dspy.Module) -> tuple[list[str], list[str]]:
    """Required and optional inputs: the parameters of `forward`, and what its signature adds to `**kwargs`."""
    forward = object.__getattribute__(module, "forward")  # reading module.forward logs a warning
    parameters = inspect.signature(forward).parameters.values()
    named = [
        parameter for parameter in parameters if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    required = [parameter.name for parameter in named if parameter.default is parameter.empty]
    optional = [parameter.name for parameter in named if parameter.default is not parameter.empty]
    signature = _signature(module)
    if signature is not None and any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        for field, info in signature.input_fields.items():
            if field not in required and field not in optional:
                (required if info.is_required() else optional).append(field)
    return required, optional


def _signature(module: dspy.Module) -> Any:
    signature = getattr(module, "signature", None)
    if hasattr(signature, "input_fields"):
        return signature
    inner = getattr(module, "module", None)  # BestOfN, Refine
    if isinstance(inner, dspy.Module):
        return _signature(inner)
    predictors = module.predictors()
    return predictors[0].signature if len(predictors) == 1 else None


def _mapping(reader: str, argument: str, fields: Fields) -> dict[str, str]:
    if isinstance(fields, Mapping):
        pairs = dict(fields)
    elif isinstance(fields, str):
        raise NodeError(f"{reader}: {argument}={fields!r} is one text; expected a list of fields, as {argument}=[{fields!r}].")
    else:
        pairs = {field: field for field in fields}
    if odd := [name for pair in pairs.items() for name in pair if not isinstance(name, str)]:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise NodeError(f"{reader}: {argument} has {shown(odd[0])}; expected names of fields, or {{field: state key}}.")
    return pairs


def _plain(value: Any) -> Any:
    """The value without predictions in it; what holds none is not copied."""
    if isinstance(value, dspy.Example):
        value = dict(cast("Mapping[str, Any]", value).items())
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in cast("dict[Any, Any]", value).items()}
    if type(value) in (list, tuple):
        entries = [_plain(entry) for entry in cast("Sequence[Any]", value)]
        return entries if isinstance(value, list) else tuple(entries)
    return value
