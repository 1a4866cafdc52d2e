"""`Node`: a LangGraph node with a sync and an async function."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache
from inspect import Signature, signature
from types import MappingProxyType
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import DEFAULT_RECURSION_LIMIT, ensure_config, var_child_runnable_config

from mahsm.nodes._module_ref import ModuleRef

Sync = Callable[[Any, RunnableConfig], Any]
Async = Callable[[Any, RunnableConfig], Awaitable[Any]]


class _SignatureOfCall:
    """The signature of a node's `__call__`, computed once, since LangGraph reads it for each added node."""

    def __get__(self, instance: object, owner: type[Any]) -> Signature:
        if instance is None:
            # The class then has the signature of its `__init__`.
            raise AttributeError("__signature__")
        return _call_signature()


@cache
def _call_signature() -> Signature:
    found = signature(Node.__call__)
    # The first parameter is `self`.
    return found.replace(parameters=list(found.parameters.values())[1:])


class Node(RunnableLambda[Any, Any]):
    """A Runnable made of two functions, in which LangGraph finds subgraphs.

    LangGraph looks for subgraphs in the `deps` of a `RunnableLambda`, so it is a subclass of that. It makes
    no run of its own in traces and callbacks, so a node costs as much as its function.

    Attributes:
        held: References to the DSPy modules that it holds itself, by their place in it.
        children: Functions, Runnables and graphs that it calls, by name.
        item: The type of its input, such as "str", if that is an item of a batch and not a state.
    """

    held: Mapping[str, ModuleRef] = MappingProxyType({})
    item: str | None = None
    __signature__: _SignatureOfCall = _SignatureOfCall()

    def __init__(
        self,
        sync: Sync,
        async_: Async,
        *,
        name: str,
        graphs: Sequence[Runnable[Any, Any]] = (),
        children: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        # `super().__init__` is not called: it would inspect both functions, whose properties are known here.
        self.func = self._sync = sync
        self.afunc = self._async = async_
        self.name: str = name
        self.deps = list(graphs)
        # A dict, since a MappingProxyType cannot be deep-copied.
        self.children: dict[str, object] = dict(children)

    @property
    def is_async(self) -> bool:
        """True if the async function does more than run the sync one in a thread."""
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __call__(self, state: Any, config: RunnableConfig | None = None) -> Any:
        """Run the sync function, by default with the config of the node that runs here, if any."""
        return self.invoke(state, config)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the sync function."""
        return self._sync(input, _ensured(config))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the async function."""
        return await self._async(input, _ensured(config))

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Yield the result of `invoke`. LangGraph calls this for `astream_events`; it makes no run."""
        yield self.invoke(input, config)

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Async version of `stream`."""
        yield await self.ainvoke(input, config)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def _ensured(config: RunnableConfig | None) -> RunnableConfig:
    """Return the config, merged with the ambient one.

    A node that LangGraph calls gets the ambient config itself, and an item gets none. So there is nothing to
    merge. What `ensure_config` would add is added here, without its copies, since nodes only read their
    config.
    """
    ambient = var_child_runnable_config.get()
    if ambient is None or (config is not None and config is not ambient):
        return ensure_config(config)
    own: dict[str, Any] = ambient.get("configurable", {})
    if "checkpoint_ns" not in own or "model" in own:
        return ensure_config(config)
    metadata = {"checkpoint_ns": own["checkpoint_ns"], **ambient.get("metadata", {})}
    given = {key: value for key, value in ambient.items() if value is not None}
    found: Any = {"tags": [], "recursion_limit": DEFAULT_RECURSION_LIMIT, **given, "metadata": metadata}
    return found


def node_name(name: str) -> str:
    """Return the name without the characters that LangGraph reserves in node names."""
    return name.replace(":", "_").replace("|", "_").strip("<>") or "node"
