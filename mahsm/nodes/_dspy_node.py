"""`dspy_node`: a DSPy module as a LangGraph node."""

import asyncio
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, overload

import dspy
from langchain_core.runnables import RunnableConfig
from typing_extensions import TypedDict, Unpack

from mahsm import _spans
from mahsm._common import State, as_dict, shown
from mahsm._model_calls import calls, is_observed, observed, restored_context
from mahsm._waiting import tasks
from mahsm.errors import NodeError
from mahsm.limits import RateLimit
from mahsm.limits._internal import Limited
from mahsm.nodes._dspy_fields import FieldInputs, Fields, Outputs, Transform
from mahsm.nodes._module_ref import HoldsGraph, ModuleRef
from mahsm.nodes._node import Node, node_name
from mahsm.nodes._prompt_prefix import PromptPrefix, check_prompt_prefix, prompt_prefix_of
from mahsm.nodes._provider import provider_of
from mahsm.nodes._stream_target import StreamTarget, stream_target
from mahsm.nodes._tokens import call_streaming, streamed_fields
from mahsm.nodes._unparsed import Unparsed
from mahsm.policies._internal import after_budgets, check_budgets


class DSPyNode(Node):
    """A node that runs a DSPy module. Made by `dspy_node`.

    It holds the module itself and calls it as DSPy does, so changes of `module`, such as by `set_lm` or new
    demos, take effect.
    """

    def __init__(
        self,
        module: dspy.Module,
        *,
        input_fields: Fields | None = None,
        output_fields: Fields | None = None,
        input_transform: Transform | None = None,
        output_transform: Transform | None = None,
        prefix: str | None = None,
        prompt_prefix: PromptPrefix | None = None,
        stream: bool | Sequence[str] = False,
        rate_limit: RateLimit | Mapping[str, Any] | str | None = None,
        name: str | None = None,
    ) -> None:
        title = module.title if isinstance(module, HoldsGraph) else None
        name = name or node_name(title or type(module).__name__)
        transforms = {"input_transform": input_transform, "output_transform": output_transform}
        check_prompt_prefix(name, prompt_prefix)
        super().__init__(self._run, self._run_async, name=name, children=transforms)
        self._held = ModuleRef(module)
        self.held: Mapping[str, ModuleRef] = {"": self._held}
        self._label = name
        reader = f"dspy_node {name!r}"
        self._inputs = FieldInputs(reader, module, input_fields, input_transform)
        self._outputs = Outputs(reader, module, output_fields, output_transform, prefix)
        self._prompt_prefix = prompt_prefix
        self._streamed = streamed_fields(reader, module, stream)
        self._unparsed = Unparsed()
        self._limit = None if rate_limit is None else RateLimit.of(rate_limit)

    @property
    def module(self) -> dspy.Module:
        """The DSPy module; inside a `GraphModule`, its copy."""
        return self._held.current

    @property
    def is_async(self) -> bool:
        """True if the module can be awaited; otherwise it runs in a thread."""
        return hasattr(type(self.module), "aforward")

    @property
    def reads(self) -> frozenset[str]:
        """The state keys that it reads if they exist."""
        return self._inputs.keys

    @property
    def writes(self) -> frozenset[str]:
        """The state keys that it is known to write."""
        return self._outputs.keys

    def __repr__(self) -> str:
        return (
            f"<DSPyNode {self.name!r}: {', '.join(sorted(self.reads))} -> {', '.join(sorted(self.writes))}>"
        )

    def _run(self, state: Any, config: RunnableConfig) -> State:
        arguments = self._inputs.of(as_dict(state))
        with self._traced(state, config), self._admitted(state, arguments):
            if self._streamed:
                # Read here, since the other thread lacks LangGraph's context.
                place = stream_target(config)
                return self._outputs.of(tasks.call(partial(self._streaming, arguments, config, place)))
            return self._outputs.of(self.module(**arguments))

    async def _run_async(self, state: Any, config: RunnableConfig) -> State:
        arguments = self._inputs.of(as_dict(state))
        with self._traced(state, config):
            async with self._admitted(state, arguments):
                return self._outputs.of(await self._called(arguments, config))

    async def _called(self, arguments: dict[str, Any], config: RunnableConfig) -> Any:
        if self._streamed:
            return await self._streaming(arguments, config, stream_target(config))
        if self.is_async:
            return await self.module.acall(**arguments)
        return await asyncio.to_thread(self.module, **arguments)

    async def _streaming(self, arguments: dict[str, Any], config: RunnableConfig, place: StreamTarget) -> Any:
        return await call_streaming(self._label, self.module, self._streamed, arguments, config, place)

    @contextmanager
    def _traced(self, state: Any, config: RunnableConfig) -> Generator[None, None, None]:
        """Observe the model calls in the block as the node's, including those in threads of DSPy's.

        They are not observed if no tracer, budget, `usage()` block, retry of a failed parse or text in front
        of their prompts needs it.
        """
        given = self._prompt_prefix
        text = given if given is None else prompt_prefix_of(self._label, given, as_dict(state))
        with restored_context(), self._unparsed.attempt() as again:
            if _spans.tracer() is None and not is_observed() and not again and text is None:
                yield
                return
            with _spans.node(config), calls.changed(**({"prompt_prefix": text} if text else {})), observed():
                yield

    def _admitted(self, state: Any, arguments: dict[str, Any]) -> Any:
        """Return a block for `with` and `async with` that begins when rate limit and budgets admit the call.

        Raises:
            BudgetExceeded: if a budget is spent; inside an item of an edge, the edge has checked it before.
        """
        check_budgets(shared=False)
        block: Any = nullcontext()
        if self._limit is not None:
            limited = Limited.of(self._limit, lambda: provider_of(self.module))
            block = limited.block(as_dict(state), arguments)
        return after_budgets(block)


class Options(TypedDict, total=False):
    """The arguments of `dspy_node` besides the module."""

    input_fields: Fields | None
    output_fields: Fields | None
    input_transform: Transform | None
    output_transform: Transform | None
    prefix: str | None
    prompt_prefix: PromptPrefix | None
    stream: bool | Sequence[str]
    rate_limit: RateLimit | Mapping[str, Any] | str | None
    name: str | None


@overload
def dspy_node(module: dspy.Module | dspy.Parallel, /, **options: Unpack[Options]) -> DSPyNode: ...
@overload
def dspy_node(module: type[dspy.Module], /, **options: Unpack[Options]) -> Callable[..., DSPyNode]: ...
@overload
def dspy_node(**options: Unpack[Options]) -> Callable[[type[dspy.Module]], Callable[..., DSPyNode]]: ...
def dspy_node(
    module: Any = None,
    /,
    *,
    input_fields: Fields | None = None,
    output_fields: Fields | None = None,
    input_transform: Transform | None = None,
    output_transform: Transform | None = None,
    prefix: str | None = None,
    prompt_prefix: PromptPrefix | None = None,
    stream: bool | Sequence[str] = False,
    rate_limit: RateLimit | Mapping[str, Any] | str | None = None,
    name: str | None = None,
) -> Any:
    """Make a LangGraph node from a DSPy module; or, as a decorator, from each instance of a class.

    Args:
        module: A module, or a class of modules; or a `dspy.Parallel`, whose input is `exec_pairs` and whose
            output is `results`. A decorated class makes nodes: `Summarize(...)` is then a node whose
            `module` is the instance, and the class itself is `Summarize.__wrapped__`.
        input_fields: Inputs of the module: names that are both field and state key, or
            `{field: state key}`; by default the parameters of `forward`, or the inputs of its signature.
        output_fields: Outputs to write to the state, in the same form; by default all. LangGraph drops keys
            that the state schema lacks.
        input_transform: Function from the state to a dict of the module's inputs. Other inputs are read from
            the state, by `input_fields`.
        output_transform: Function from the module's result to a dict of outputs, to which `output_fields`
            and `prefix` are then applied.
        prefix: Prefix of the keys that are written, such as `"draft_"`, for parallel modules that have an
            output of the same name, such as `reasoning`. It does not apply to keys that an `output_fields`
            dict names.
        prompt_prefix: A text that comes first in all prompts of the module, and is the same for many calls,
            such as a handbook: the text, or a function of the state. Providers keep the beginning of prompts
            in a cache; for Anthropic's models, which need it, the end of the system prompt is marked.
        stream: Stream the tokens of outputs that are strings: True for all, or names of fields.
            `stream_mode="custom"` gets a `TokenEvent` for each token, `stream_mode="messages"` a message
            chunk, also from inside an edge.
        rate_limit: The provider's limit: a `RateLimit`, its arguments as a dict, or the name of a provider
            that has one. In an edge that waits for the same provider, its items do not wait twice.
        name: Node name; by default the name of the module's class.

    Returns:
        A node whose update has plain values, and no `Prediction`: nested predictions become dicts. Pydantic
        models are kept.

    Raises:
        NodeError: immediately, if this is not a DSPy module, its inputs are unknown, or arguments contradict
            each other; when run, if an output is missing, or a transform does not return a dict.
        MissingKeyError: when run, if the state lacks a required input.

    Example:
        >>> import dspy
        >>> from mahsm import dspy_node
        >>> summarize = dspy.Predict("text -> summary")
        >>> node = dspy_node(summarize, input_fields={"text": "doc"}, output_fields=["summary"])
        >>> with dspy.context(lm=dspy.utils.DummyLM([{"summary": "short"}])):
        ...     node.invoke({"doc": "a long text"})
        {'summary': 'short'}
    """
    options: Options = {
        "input_fields": input_fields,
        "output_fields": output_fields,
        "input_transform": input_transform,
        "output_transform": output_transform,
        "prefix": prefix,
        "prompt_prefix": prompt_prefix,
        "stream": stream,
        "rate_limit": rate_limit,
        "name": name,
    }
    wrap = functools.partial(DSPyNode, **options)
    if module is None:
        return functools.partial(dspy_node, **options)
    if isinstance(module, dspy.Module):
        return wrap(module)
    if isinstance(module, dspy.Parallel):
        return wrap(_Pairs(module))
    given = shown(module)
    if not (isinstance(module, type) and issubclass(module, dspy.Module)):
        raise NodeError(f"dspy_node: got {given}; expected a dspy.Module, or a subclass of it.")

    def make(*args: Any, **kwargs: Any) -> DSPyNode:
        return wrap(module(*args, **kwargs))

    functools.update_wrapper(make, module, updated=())
    return make


class _Pairs(dspy.Module):
    """A module that runs a `dspy.Parallel`."""

    def __init__(self, parallel: dspy.Parallel) -> None:
        super().__init__()
        self._parallel = parallel

    def forward(self, exec_pairs: Any) -> dspy.Prediction:
        return dspy.Prediction(results=self._parallel(exec_pairs))
