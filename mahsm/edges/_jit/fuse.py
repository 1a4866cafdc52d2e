"""`fuse`: several `jit_edge`s as one computation."""

from collections.abc import Sequence

from mahsm._common import check, shown
from mahsm._numeric import JitSpec, Step
from mahsm.edges._jit.edge import JitEdge
from mahsm.edges._shared.constructor import constructor
from mahsm.errors import EdgeError

_OF_THE_PARTS = (
    "It belongs to the edges that are fused. Change these, and fuse them: fuse(first.with_(...), second)."
)


@constructor(
    **dict.fromkeys(
        ("fn", "in_keys", "static_keys", "ragged", "seed_key", "device", "shard", "x64", "output"),
        _OF_THE_PARTS,
    ),
    edges="They are given by position, and cannot be changed afterwards: fuse(first, second).",
    out_key="The keys of the result are keep=['key'].",
)
def fuse(*edges: JitEdge, keep: Sequence[str] | None = None, name: str | None = None) -> JitEdge:
    """Make one edge of several that run one after the other: one compiled computation, and one node.

    Values between two of them never leave the device, and are not in the state, unless `keep` names them. The
    edges of a graph are fused only by this function and never automatically, since the checkpoints, streamed
    updates and spans between them would be missing.

    Args:
        *edges: Edges made by `jit_edge` or `fuse`, in the order in which they run.
        keep: State keys to write; by default those of the last edge.
        name: Node name; by default the edges' names.

    Returns:
        An edge that reads the keys that its edges read, except those that earlier ones write, and writes
        `keep`.

    Raises:
        EdgeError: for edges that cannot be one computation: on different devices, of different precision, or
            with a key that is static or ragged in one and computed by one before.

    Example:
        >>> from mahsm import fuse, jit_edge
        >>> double = jit_edge(lambda x: x * 2, in_keys=["x"], out_key="doubled", name="double")
        >>> total = jit_edge(lambda doubled: doubled.sum(), in_keys=["doubled"], out_key="total")
        >>> fuse(double, total).invoke({"x": [1.0, 2.0]})
        {'total': 6.0}
    """
    edge = "fuse" if name is None else f"fuse {name!r}"
    if len(edges) < 2:
        raise EdgeError(
            f"{edge}: got {len(edges)} edges; expected at least two, such as fuse(first, second)."
        )
    for given in edges:
        if not isinstance(given, JitEdge):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EdgeError(f"{edge}: got {shown(given)}; expected edges made by jit_edge.")
    if name is not None:
        check.name(edge, name)
    specs = [given.current_spec for given in edges]
    _check_alike(edge, specs)
    steps = tuple(step for spec in specs for step in spec.steps)
    _check_names(edge, steps)
    _check_hidden(edge, specs)
    _check_ragged(edge, steps)
    written = {key for spec in specs for key in spec.keep}
    kept = specs[-1].keep if keep is None else _kept(edge, keep, written)
    static = _static(edge, specs)
    joined = "_".join(spec.name for spec in specs)
    fused = JitSpec(
        name=name or (joined if len(joined) <= 40 else f"fused_{len(steps)}"),
        steps=steps,
        keep=kept,
        static_keys=static,
        device=specs[0].device,
        shard=next((spec.shard for spec in specs if spec.shard is not None), None),
        x64=specs[0].x64,
        output=specs[-1].output,
    )
    return JitEdge(fused)


def _check_alike(edge: str, specs: Sequence[JitSpec]) -> None:
    first = specs[0]
    for spec in specs[1:]:
        for argument in ("device", "x64"):
            if getattr(spec, argument) != getattr(first, argument):
                raise EdgeError(
                    f"{edge}: {first.name} has {argument}={shown(getattr(first, argument))}, and {spec.name} "
                    f"has {shown(getattr(spec, argument))}; expected the same, since they become one "
                    "computation."
                )
    shards = {spec.shard for spec in specs if spec.shard is not None}
    if len(shards) > 1:
        raise EdgeError(f"{edge}: the edges shard {', '.join(sorted(shards))}; expected one key.")


def _check_names(edge: str, steps: Sequence[Step]) -> None:
    names = [step.name for step in steps]
    for name in names:
        if names.count(name) > 1:
            raise EdgeError(
                f"{edge}: two edges are named {name!r}; expected a name for each. Pass name= to jit_edge."
            )


def _kept(edge: str, keep: Sequence[str], written: set[str]) -> tuple[str, ...]:
    if isinstance(keep, str):
        raise EdgeError(
            f"{edge}: keep={keep!r} is a string; expected a list of state keys, such as keep=[{keep!r}]."
        )
    for key in keep:
        if key not in written:
            raise EdgeError(
                f"{edge}: keep has {key!r}; expected some of the keys that the edges write, "
                f"{', '.join(sorted(written))}."
            )
    if not keep:
        raise EdgeError(f"{edge}: keep is empty; expected at least one key that the edges write.")
    return tuple(keep)


def _static(edge: str, specs: Sequence[JitSpec]) -> frozenset[str]:
    written: set[str] = set()
    dynamic: set[str] = set()
    static: set[str] = set()
    for spec in specs:
        for key in sorted(spec.static_keys & written):
            raise EdgeError(
                f"{edge}: {key!r} is static in {spec.name}, but an earlier edge computes it; expected a key "
                f"of the state. Leave {spec.name} out of the fusion."
            )
        static |= spec.static_keys
        dynamic |= set(spec.reads) - spec.static_keys - written
        written |= set(spec.keep)
    if both := static & dynamic:
        raise EdgeError(
            f"{edge}: {sorted(both)[0]!r} is static in one of the edges and dynamic in another; expected one "
            "of them."
        )
    return frozenset(static)


def _check_ragged(edge: str, steps: Sequence[Step]) -> None:
    varies: set[str] = set()
    written: set[str] = set()
    for step in steps:
        for key in sorted(step.ragged & written - varies):
            raise EdgeError(
                f"{edge}: {key!r} is ragged in {step.name}, but the edge that computes it has no ragged key, "
                f"so its padding is unknown. Leave {step.name} out of the fusion."
            )
        written |= set(step.out_keys)
        if step.ragged:
            varies |= set(step.out_keys)


def _check_hidden(edge: str, specs: Sequence[JitSpec]) -> None:
    hidden: set[str] = set()
    for spec in specs:
        for key in sorted(hidden & set(spec.reads)):
            raise EdgeError(
                f"{edge}: {spec.name} reads {key!r}, which an earlier edge computes and does not keep. Pass "
                "keep= to that one."
            )
        hidden = (hidden | {key for step in spec.steps for key in step.out_keys}) - set(spec.keep)
