"""Everything that one example draws for a `vmap`."""

from dataclasses import dataclass, fields, replace
from typing import Any

ALWAYS = 10**6
"""How often an item fails that never succeeds."""

SYNC_MODES = ("invoke", "stream")
ASYNC_MODES = ("ainvoke", "astream")
MODES = (*SYNC_MODES, *ASYNC_MODES)
OVER_ROWS = ("nested", "called", "mapped")
"""Nestings in which the edge runs once for each row of the batch."""

NESTINGS = ("alone", "flat", "parallel", "subgraph", *OVER_ROWS)


class Short:
    """A dataclass whose repr leaves defaults out."""

    def __repr__(self) -> str:
        shown = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


@dataclass(frozen=True, repr=False)
class Fault(Short):
    """What goes wrong in the first run, besides items that fail.

    Attributes:
        kind: `"base"`: the target raises `error` for item `at`, once. `"stop"`: the saver raises at its write
            number `at` and, unless `once`, at all later ones. `"cancel"`: the task of the run is cancelled at
            call number `at`.
    """

    kind: str
    at: int
    error: str = ""
    once: bool = False


@dataclass(frozen=True, repr=False)
class Case(Short):
    """One example: the batch, the arguments of the edge, what is around it, and what goes wrong.

    Attributes:
        rows: How many rows the batch is cut into, where there is an edge around.
        work: Seconds that a call takes.
        fails: Pairs of an item and how often it fails.
        hangs: An item that never answers; it needs a `timeout` or a `deadline`.
        rate: Requests per second, and at once.
        hedge: How many calls must have ended before any is hedged.
        stop_after: Entries after which `stop_when` stops.
        dedupe: Items that are equal modulo this are the same.
        resume: Other settings for the runs after the first one.
    """

    size: int = 5
    rows: int = 2
    mode: str = "invoke"
    nesting: str = "flat"
    blocks: bool = False
    work: float = 0.0
    max_concurrency: int = 8
    outer_concurrency: int = 8
    config_bound: int | None = None
    chunk_size: int | None = None
    preserve_order: bool = True
    on_error: str = "raise"
    errors_key: bool = False
    min_success: int | float | None = None
    attempts: int | None = None
    fails: tuple[tuple[int, int], ...] = ()
    hangs: int | None = None
    timeout: float | None = None
    deadline: float | None = None
    rate: tuple[float, int] | None = None
    hedge: int | None = None
    adaptive: bool = False
    budget: int | None = None
    stop_after: int | None = None
    dedupe: int | None = None
    cache: bool = False
    sample: bool = False
    saver: str | None = None
    slow: float = 0.0
    durability: str = "async"
    fault: Fault | None = None
    resume: tuple[tuple[str, Any], ...] = ()

    answers_all = False

    @property
    def is_async(self) -> bool:
        return self.mode in ASYNC_MODES

    @property
    def tries(self) -> int:
        """How often an item is called before it has failed."""
        return self.attempts or 1

    @property
    def batches(self) -> list[list[int]]:
        """The items of each run of the edge."""
        if self.nesting not in OVER_ROWS:
            return [list(range(self.size))]
        each = -(-self.size // self.rows) or 1
        return [list(range(lo, min(lo + each, self.size))) for lo in range(0, self.size, each)]

    @property
    def bound(self) -> int:
        """How many calls there may be at any moment."""
        around = (
            [self.outer_concurrency] if self.nesting in (*OVER_ROWS, "parallel") else [self.max_concurrency]
        )
        return min([*around, *([self.config_bound] if self.config_bound else [])])

    @property
    def resumed(self) -> "Case":
        """The case with the settings of later runs."""
        return replace(self, **dict(self.resume))

    def key(self, item: int) -> int:
        return item if self.dedupe is None else item % self.dedupe

    def value(self, item: int) -> int:
        return item * 2 if self.stop_after is None else item % 3
