"""A LangGraph node with a synchronous and an asynchronous side."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache
from inspect import Signature, signature
from types import MappingProxyType
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import ensure_config

from mahsm.nodes._module_ref import ModuleRef

Sync = Callable[[Any, RunnableConfig], Any]
Async = Callable[[Any, RunnableConfig], Awaitable[Any]]


class _SignatureOfCall:
    """The signature of a node's `__call__`, made once: LangGraph asks each node that is added for it."""

    def __get__(self, instance: object, owner: type[Any]) -> Signature:
        if instance is None:
            raise AttributeError("__signature__")  # so that the class has the signature of its __init__
        return _call_signature()


@cache
def _call_signature() -> Signature:
    found = signature(Node.__call__)
    return found.replace(parameters=list(found.parameters.values())[1:])  # without self


class Node(RunnableLambda[Any, Any]):
    """A Runnable made of two functions, whose graphs LangGraph finds.

    LangGraph looks for subgraphs in the `deps` of a `RunnableLambda`; that is why this is one. It adds no
    span and no callback of its own, so a node costs what its function costs.

    Attributes:
        held: The DSPy modules that it holds itself, by where in it they are.
        children: What else it calls, by name: functions, Runnables, graphs.
    """

    held: Mapping[str, ModuleRef] = MappingProxyType({})
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
        # Not super().__init__, which inspects both functions for what is known here.
        self.func = self._sync = sync
        self.afunc = self._async = async_
        self.name: str = name
        self.deps = list(graphs)
        self.children: dict[str, object] = dict(children)  # a MappingProxyType cannot be copied deeply

    @property
    def is_async(self) -> bool:
        """Whether the asynchronous side is more than the synchronous one in a thread."""
        return True

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __call__(self, state: Any, config: RunnableConfig | None = None) -> Any:
        """Run the synchronous side, as `invoke` does, with the config of the node that is running here, if
        one is.
        """
        return self.invoke(state, config)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the synchronous side."""
        return self._sync(input, ensure_config(config))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Run the asynchronous side."""
        return await self._async(input, ensure_config(config))

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Give what `invoke` gives: LangGraph streams its nodes for `astream_events`, and this one is no run
        of its own.
        """
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


def node_name(name: str) -> str:
    """The name without what LangGraph reserves in node names."""
    return name.replace(":", "_").replace("|", "_").strip("<>") or "node"
