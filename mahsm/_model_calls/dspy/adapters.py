"""Views of adapters, which pass views of language models to the user's adapter."""

import copy
from functools import cache
from typing import Any, cast

from mahsm._model_calls import calls
from mahsm._model_calls.dspy.around import Around
from mahsm._model_calls.dspy.models import observed_lm


def observed_adapter(adapter: Any, around: Around) -> Any:
    """Return a view of an adapter: a copy with the same attributes, whose calls are observed."""
    kind = cast("type[Any]", type(adapter))
    viewed = kind if getattr(kind, "_mahsm", False) else _adapter_class(kind)
    if _is_plain(kind):
        # What `copy.copy` would do, which takes ten times as long, and this runs for each item of an edge.
        view = object.__new__(viewed)
        view.__dict__.update(adapter.__dict__)
    else:
        view = copy.copy(adapter)
        view.__class__ = viewed
    view._mahsm_around = around
    return view


@cache
def _is_plain(kind: type[Any]) -> bool:
    """Return whether the attributes of its instances are all that is to copy."""
    copies_as_others = all(
        getattr(kind, name) is getattr(object, name)
        for name in ("__new__", "__reduce_ex__", "__reduce__", "__getstate__")
    )
    has_more = any(hasattr(kind, name) for name in ("__copy__", "__setstate__", "__getnewargs_ex__"))
    return copies_as_others and not has_more and not any(vars(one).get("__slots__") for one in kind.__mro__)


def plain_adapter(adapter: Any) -> Any:
    """Return the adapter without the view around it, if it is one."""
    if not hasattr(adapter, "_mahsm_around"):
        return adapter
    plain = copy.copy(adapter)
    plain.__class__ = type(adapter).__mro__[1]
    plain.__dict__.pop("_mahsm_around", None)
    return plain


def _model(lm: Any, around: Around) -> Any:
    """Return the model that an adapter calls: a view of the user's, which collects its calls if they are."""
    view = observed_lm(lm, around)
    with around.here():  # in a thread of DSPy's
        batched = calls.here().batched
    # DSPy wants to see the same object in the adapter and in the call.
    return view if batched is None else batched.model(view)


@cache
def _adapter_class(kind: type[Any]) -> type[Any]:
    def __call__(self: Any, lm: Any, *args: Any, **kwargs: Any) -> Any:
        calls.check_refused()
        return kind.__call__(self, _model(lm, self._mahsm_around), *args, **kwargs)

    async def acall(self: Any, lm: Any, *args: Any, **kwargs: Any) -> Any:
        calls.check_refused()
        return await kind.acall(self, _model(lm, self._mahsm_around), *args, **kwargs)

    made: Any = type(
        kind.__name__,
        (kind,),
        {
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__call__": __call__,
            "acall": acall,
            "_mahsm": True,
        },
    )
    # DSPy wraps these methods in every subclass, so callbacks would be called twice.
    for name in ("format", "parse"):
        if name in vars(made):
            delattr(made, name)
    return made
