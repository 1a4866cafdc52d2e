"""`Context`: a handle of a context."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Self, final

from mahsm._common import redacted, shown
from mahsm._context._internal import (
    Layer,
    checked,
    checked_path,
    config_of,
    credential_of,
    dotted,
    files,
    here,
    is_secret,
    leaves,
    nested,
    save,
)
from mahsm.context._following import follow

# How changes stay apart.
#
# The context variable holds an immutable layer, never a handle. All versions of a context have the same
# `lineage`, so a handle knows which layer of the surroundings is its own. Where its context is open, in its
# block and in the tasks and threads that inherited it, the handle reads and changes the version there: a
# change makes a new layer and sets it in this thread or task, and all others keep theirs. Elsewhere it reads
# and changes `_layer`, under a lock. Each change is made in `_layer`, too; so when the block is over, the
# handle has all changes that were made through it, from wherever.


@final
class Context:
    """A handle of a context; `create_context` and `get_context` return one.

    In its `with` block, and in the tasks and edge workers that start there, the handle shows the context of
    the present thread or task: a change holds there only. Anywhere else, it holds settings of its own, which
    threads may share.

    Two handles are equal if they have the same settings of the same context. A handle cannot be pickled.

    Examples:
        >>> from mahsm.context import create_context, get_config
        >>> with create_context(models={"default": "openai/gpt-4o-mini"}) as context:
        ...     context.set_config("models.temperature", 0.7)
        ...     print(context, get_config("models"))
        Context(models.default='openai/gpt-4o-mini', models.temperature=0.7)
        {'default': 'openai/gpt-4o-mini', 'temperature': 0.7}
    """

    __slots__ = ("_layer", "_lock")

    def __init__(self, layer: Layer) -> None:
        self._layer = replace(layer, block=None)
        self._lock = threading.Lock()

    def get_config(self, key: str | None, default: Any = None) -> Any:
        """Return a setting: of this context, else of the environment, else of the files.

        Args:
            key: A dotted name, such as `models.default`.
            default: What is returned if the key is not set, is set to None, or is empty or None itself.

        Returns:
            The value. Containers are copies, which you may change. A credential is a `Secret`.

        Raises:
            ContextError: if a file is broken or unsafe, or an environment variable should be a number.
        """
        return config_of(self._now(), key, default)

    def set_config(self, key: str, value: Any) -> None:
        """Set a value in this context.

        Args:
            key: A dotted name, such as `models.temperature`.
            value: Anything. Containers are copied, a mapping is laid over the present one, and None hides
                what is set further out.

        Raises:
            ContextError: if the key is empty, or the value is not valid for a key that mahsm reads.
        """
        values = checked(nested(checked_path(key), value))
        with self._lock:
            self._layer = self._layer.with_values(values)
        here.change(self._layer.lineage, values)

    def get_credential(self, provider: str, env_var: str | Sequence[str] | None = None) -> str | None:
        """Return the credential of a provider; None if there is none.

        The first of these that has one decides: this context, the environment, `config.yaml`,
        `credentials.yaml`, the system's keyring.

        Args:
            provider: Such as `openai`, whose key in the context is `credentials.openai_api_key`.
            env_var: One or more environment variables; by default `<PROVIDER>_API_KEY`.

        Raises:
            ContextError: if a file is broken or unsafe.
        """
        variables = (env_var,) if isinstance(env_var, str) else tuple(env_var or ())
        return credential_of(self._now(), provider, tuple(filter(None, variables)))

    def save(self) -> None:
        """Write what this context and those around it set over the files.

        Credentials go into `credentials.yaml`, the rest into `config.yaml`. Other keys in the files stay, and
        keys that are set to None are removed. Comments are not kept. Each file is replaced as a whole: after
        a crash it is the old or the new one.

        Raises:
            ContextError: if a file is broken or unsafe, cannot be written, or a value is not plain.
        """
        save(self._now())

    def reload(self) -> None:
        """Read the files again now. Changed files are noticed without it, when a setting is looked up.

        Raises:
            ContextError: if a file is broken or unsafe.
        """
        files.forget()
        files.config()
        files.credentials()

    def create_child(self, **overrides: Any) -> "Context":
        """Return a new context over this one; later changes of this one do not reach it.

        Args:
            overrides: Settings by section, such as `models={"temperature": 0.9}`.

        Raises:
            ContextError: for a value that is not valid for a key that mahsm reads.
        """
        return Context(self._now().child(overrides))

    def __enter__(self) -> Self:
        before, layer = here.current(), self._now()
        leaving = here.enter(layer)
        try:
            follow(layer, before, leaving)
        except BaseException:
            here.leave(layer.lineage)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        last = here.leave(self._layer.lineage)
        if last is not None:
            with self._lock:
                self._layer = self._layer.with_values(last.values)

    def __eq__(self, other: object) -> bool:
        return self._now() is other._now() if isinstance(other, Context) else NotImplemented

    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Context({', '.join(_described(self._now()))})"

    def __copy__(self) -> "Context":
        return Context(self._now())

    def __deepcopy__(self, memo: dict[int, Any]) -> "Context":
        return Context(self._now())

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Context cannot be pickled; call create_context in the other process.")

    def _now(self) -> Layer:
        """Return the version of this context that counts here."""
        return here.version(self._layer.lineage) or self._layer


def _described(layer: Layer) -> list[str]:
    """Return what a repr shows: options of models, and the names of all others, which may be secret."""
    return [
        f"{dotted(path)}={redacted(shown(value))}"
        if path[0] == "models" and len(path) == 2 and not is_secret(path)
        else dotted(path)
        for path, value in leaves(layer.merged)
    ]
