"""Placement of a function: on a device, or spread over a mesh of devices."""

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
    """Check the arguments `device` and `shard`, without JAX. Devices are looked up when they are needed.

    Raises:
        EdgeError: if `device` is not a valid name, a device or a mesh, or if `shard` does not go with it.
    """
    is_mesh = hasattr(device, "axis_names")
    if isinstance(device, str) and not _NAME.fullmatch(device):
        raise EdgeError(
            f"{edge}: device={device!r}; expected a platform with or without a number, such as 'cpu', "
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
            f"{edge}: device is a mesh of devices; pass shard= with the key whose first axis is "
            "spread over them."
        )


def x64_pinned(wanted: bool) -> AbstractContextManager[Any]:
    """Return a block in which JAX's 64-bit mode is as wanted in this thread."""
    from mahsm._numeric.untyped_jax import jax

    return nullcontext() if jax.config.jax_enable_x64 is wanted else jax.enable_x64(wanted)


class Placement:
    """The shardings of a function's arguments.

    Args:
        spec: The spec of the program.

    Raises:
        EdgeError: if JAX has no device of that name.
    """

    def __init__(self, spec: JitSpec) -> None:
        self._spec = spec
        self._whole = self._spread = None
        self.devices: int = 1
        if spec.device is None:
            return
        from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

        if isinstance(spec.device, Mesh):
            # Its axes are made automatic, since `jax.make_mesh` may have made explicit ones.
            mesh = Mesh(spec.device.devices, spec.device.axis_names)
            self.devices = int(mesh.shape[mesh.axis_names[0]])
            self._whole = NamedSharding(mesh, PartitionSpec())
            self._spread = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
        else:
            self._whole = SingleDeviceSharding(_device(spec.name, spec.device))

    @property
    def is_default(self) -> bool:
        """True if JAX chooses the device."""
        return self._whole is None

    @property
    def is_far(self) -> bool:
        """True if results have to be copied before NumPy can read them."""
        from mahsm._numeric.untyped_jax import jax

        whole: Any = self._whole
        devices = jax.devices() if whole is None else list(whole.device_set)
        return devices[0].platform != "cpu"

    def of_all(self, keys: Sequence[str], parts: Sequence[Part], leaves: Sequence[Leaf]) -> list[Any] | None:
        """Return the shardings of the leaves of all keys and of those after them; None for JAX's default."""
        if self.is_default:
            return None
        places: list[Any] = []
        for key, part in zip(keys, parts, strict=True):
            places += self.of(key, leaves[len(places) : len(places) + part.leaves])
        return places + self.of("", leaves[len(places) :])

    def of(self, key: str, leaves: Sequence[Leaf]) -> list[Any]:
        """Return the shardings of the leaves of a key.

        Raises:
            EdgeError: if an axis cannot be spread evenly.
        """
        if key != self._spec.shard:
            return [self._whole] * len(leaves)
        return [self._whole if np.ndim(leaf) == 0 else self._even(key, leaf) for leaf in leaves]

    def of_rows(self, flags: Sequence[bool]) -> list[Any]:
        """Return the shardings of the leaves of a batch; those that differ between states are spread."""
        return [self._spread if flag else self._whole for flag in flags]

    def kept(self, key: str, leaves: Sequence[Leaf]) -> list[Leaf]:
        """Return the leaves of a key with its arrays on the device, to be used by more than one call."""
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
        """Return copies of a module's arrays that stay on the device. Numbers stay numbers."""
        from mahsm._numeric.untyped_jax import jax

        own = [_copied(leaf) for leaf in leaves]
        with x64_pinned(self._spec.x64):
            return [
                jax.device_put(leaf, self.of(key, [leaf])[0]) if hasattr(leaf, "dtype") else leaf
                for key, leaf in zip(keys, own, strict=True)
            ]


def _copied(leaf: Any) -> Any:
    # `jax.device_put` may share the memory of a NumPy array.
    return leaf.copy() if type(leaf) is np.ndarray else leaf


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
            f"{name}: device={device!r} does not exist; JAX has {', '.join(there)}. Pass one of these, or "
            "leave device out to use JAX's default."
        ) from None


def _all_devices() -> list[Any]:
    from mahsm._numeric.untyped_jax import jax

    return [device for platform in jax.extend.backend.backends() for device in jax.devices(platform)]
