"""Where a function runs: on a device, or spread over a mesh of them."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from mahsm._common import shown
from mahsm._numeric.spec import JitSpec
from mahsm._numeric.values import Leaf, Part
from mahsm.errors import EdgeError

_NAME = re.compile(r"[a-z][a-z0-9_]*(:\d+)?")


def check_device(edge: str, device: Any, shard: str | None) -> None:
    """Refuse, without asking JAX, what cannot name a device. Which devices there are is looked up when they
    are needed.

    Raises:
        EdgeError: for what is neither a name, a device nor a mesh.
    """
    is_mesh = hasattr(device, "axis_names")
    if isinstance(device, str) and not _NAME.fullmatch(device):
        raise EdgeError(
            f"{edge}: device={device!r}; expected a platform and perhaps a number, such as 'cpu', "
            "'gpu' or 'cuda:1'."
        )
    if device is not None and not isinstance(device, str) and not is_mesh and not hasattr(device, "platform"):
        raise EdgeError(
            f"{edge}: device={shown(device)}; expected the name of a platform, a jax.Device or a "
            "jax.sharding.Mesh."
        )
    if shard is not None and not is_mesh:
        raise EdgeError(
            f"{edge}: shard={shard!r} spreads a key over devices; pass them as device=jax.sharding.Mesh(...)."
        )
    if is_mesh and shard is None:
        raise EdgeError(
            f"{edge}: device is a mesh of devices; say with shard= which key's first axis is "
            "spread over them."
        )


def x64_pinned(wanted: bool) -> AbstractContextManager[Any]:
    """JAX's 64-bit mode as wanted, whatever it is around and in this thread."""
    from mahsm._numeric.untyped_jax import jax

    return nullcontext() if jax.config.jax_enable_x64 is wanted else jax.enable_x64(wanted)


class Placement:
    """Where the arguments of a function go.

    Args:
        spec: What is compiled.

    Raises:
        EdgeError: if there is no such device.
    """

    def __init__(self, spec: JitSpec) -> None:
        self._spec = spec
        self._whole = self._spread = None
        self.devices: int = 1
        if spec.device is None:
            return
        from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

        if isinstance(spec.device, Mesh):
            # With automatic axes, whatever make_mesh chose.
            mesh = Mesh(spec.device.devices, spec.device.axis_names)
            self.devices = int(mesh.shape[mesh.axis_names[0]])
            self._whole = NamedSharding(mesh, PartitionSpec())
            self._spread = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
        else:
            self._whole = SingleDeviceSharding(_device(spec.name, spec.device))

    @property
    def is_default(self) -> bool:
        """Whether JAX chooses."""
        return self._whole is None

    @property
    def is_far(self) -> bool:
        """Whether results have to be copied to where NumPy can read them."""
        from mahsm._numeric.untyped_jax import jax

        whole: Any = self._whole
        devices = jax.devices() if whole is None else list(whole.device_set)
        return devices[0].platform != "cpu"

    def of_all(self, keys: Sequence[str], parts: Sequence[Part], leaves: Sequence[Leaf]) -> list[Any] | None:
        """The places of the leaves of all keys, and of what comes after them; None for where JAX puts
        them.
        """
        if self.is_default:
            return None
        places: list[Any] = []
        for key, part in zip(keys, parts, strict=True):
            places += self.of(key, leaves[len(places) : len(places) + part.leaves])
        return places + self.of("", leaves[len(places) :])

    def of(self, key: str, leaves: Sequence[Leaf]) -> list[Any]:
        """The places of the leaves of a key.

        Raises:
            EdgeError: for an axis that cannot be spread evenly.
        """
        if key != self._spec.shard:
            return [self._whole] * len(leaves)
        return [self._whole if np.ndim(leaf) == 0 else self._even(key, leaf) for leaf in leaves]

    def of_rows(self, flags: Sequence[bool]) -> list[Any]:
        """The places of leaves of many states, of which those that differ from state to state are spread over
        the mesh.
        """
        return [self._spread if flag else self._whole for flag in flags]

    def kept(self, key: str, leaves: Sequence[Leaf]) -> list[Leaf]:
        """The arrays of a key where they are computed with, to be used more than once."""
        from mahsm._numeric.untyped_jax import jax

        with x64_pinned(self._spec.x64):
            return [
                jax.device_put(leaf, place) if isinstance(leaf, np.ndarray) else leaf
                for leaf, place in zip(leaves, self.of(key, leaves), strict=True)
            ]

    def _even(self, key: str, leaf: Leaf) -> Any:
        if leaf.shape[0] % self.devices:
            raise EdgeError(
                f"{self._spec.name}: shard={key!r} has an array of shape {leaf.shape}, whose first axis "
                f"cannot be spread evenly over {self.devices} devices. Pad it, or pass ragged=[{key!r}] if "
                "it is a key of the state."
            )
        return self._spread

    def resident(self, leaves: Sequence[Leaf], keys: Sequence[str]) -> list[Leaf]:
        """Copies of a module's arrays that stay where they are computed with. Numbers stay numbers."""
        from mahsm._numeric.untyped_jax import jax

        own = [_copied(leaf) for leaf in leaves]
        with x64_pinned(self._spec.x64):
            return [
                jax.device_put(leaf, self.of(key, [leaf])[0]) if hasattr(leaf, "dtype") else leaf
                for key, leaf in zip(keys, own, strict=True)
            ]


def _copied(leaf: Any) -> Any:
    return leaf.copy() if type(leaf) is np.ndarray else leaf  # device_put would go on using its memory


def _device(name: str, device: Any) -> Any:
    from mahsm._numeric.untyped_jax import jax

    if not isinstance(device, str):
        return device
    platform, _, number = device.partition(":")
    try:
        found = jax.devices(platform)
        return found[int(number or 0)]
    except (RuntimeError, IndexError):
        there = [f"{each.platform}:{each.id}" for each in _all_devices()]
        raise EdgeError(
            f"{name}: device={device!r} is not there; JAX has {', '.join(there)}. Pass one of these, or "
            "leave device out to use JAX's default."
        ) from None


def _all_devices() -> list[Any]:
    from mahsm._numeric.untyped_jax import jax

    return [device for platform in jax.extend.backend.backends() for device in jax.devices(platform)]
