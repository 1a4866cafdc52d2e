"""`Concurrency`: how many items of a `vmap` run at a time, and how many are saved together."""

from dataclasses import dataclass
from typing import Any, cast

from mahsm._common import check, shown
from mahsm.errors import EdgeError
from mahsm.nodes._internal import Target


@dataclass(frozen=True)
class Concurrency:
    """Bounds on the items that run at a time, are saved together and are computed together.

    Attributes:
        max_concurrency: Items at a time.
        adaptive: Adapt that number to what the provider takes: True, or the fewest and the most.
        preserve_order: Return entries in the order of the input.
        chunk_size: Results that are saved together.
        batch_size: Items of a `jit_edge` that are computed together.
    """

    max_concurrency: int = 8
    adaptive: bool | tuple[int, int] = False
    preserve_order: bool = True
    chunk_size: int | None = None
    batch_size: int | None = None

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The fewest and the most items at a time, if the number adapts."""
        if isinstance(self.adaptive, bool):
            return (1, self.max_concurrency) if self.adaptive else None
        return self.adaptive

    def check(self, edge: str) -> None:
        """Refuse invalid options.

        Raises:
            EdgeError: for the first one that is invalid.
        """
        most = self.max_concurrency
        check.whole(
            edge,
            "max_concurrency",
            most,
            "1 runs one item at a time; no value means 'unbounded'.",
        )
        check.flag(edge, "preserve_order", self.preserve_order)
        if self.chunk_size is not None:
            check.whole(edge, "chunk_size", self.chunk_size, "Leave it out to let the edge choose.")
        if self.batch_size is not None:
            check.whole(edge, "batch_size", self.batch_size, "Leave it out to compute all items together.")
        if not isinstance(self.adaptive, bool) and not _is_range(self.adaptive, most):
            raise EdgeError(
                f"{edge}: adaptive={shown(self.adaptive)}; expected True, or the fewest and the most items "
                f"at a time, with 1 <= fewest <= most <= max_concurrency={most}."
            )

    def check_target(self, edge: str, target: Target, *, retries: bool, saves_items: bool = True) -> None:
        """Refuse options that cannot work with a target that is called for each item.

        Raises:
            EdgeError: for the first such option.
        """
        if self.batch_size is not None:
            raise EdgeError(
                f"{edge}: batch_size={self.batch_size!r} needs a jit_edge, whose items are computed "
                f"together, but {shown(target.source)} is called for each item. Pass max_concurrency= to "
                "bound the items at a time."
            )
        if saves_items and target.graph is not None and self.chunk_size not in (None, 1):
            raise EdgeError(
                f"{edge}: chunk_size={self.chunk_size!r}, but the target {target.name!r} holds a graph, "
                "whose checkpoints belong to one task each. Leave chunk_size out."
            )
        if self.adaptive is not False and not retries:
            raise EdgeError(
                f"{edge}: adaptive={shown(self.adaptive)} finds its bound by 429s, and without retries the "
                "items that meet them are lost. Pass retry=."
            )


def _is_range(value: Any, most: int) -> bool:
    if not isinstance(value, tuple):
        return False
    parts = cast("tuple[Any, ...]", value)
    return [type(part) for part in parts] == [int, int] and 1 <= parts[0] <= parts[1] <= most
