"""Data parallelism by `jax.pmap`: the only file that knows about devices.

The state is replicated, never stacked: every step is mapped with `in_axes=None` for the state and
`0` for the batch, and returns replicated values, so `state.params` has its plain shapes everywhere
and a checkpoint is independent of the number of devices. A step must therefore reduce all that
it returns over `AXIS`; `out_axes=None` does not check that (it takes one replica), so
`replica_divergence` does, in the tests.

`layout_workers` turns the paper's axis, images per worker, into what the devices at hand must do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from evonorm_jax.data import Hosts
from evonorm_jax.errors import UserError

AXIS = "batch"


@dataclasses.dataclass(frozen=True)
class WorkerLayout:
    """How the workers of the paper lie on the devices at hand.

    Attributes:
      batch_size: Images of the global batch.
      per_device: Images on each device.
      virtual_batch_size: Images whose batch statistics are taken together inside a device, or None
        for all of the device's.
      axis_index_groups: Devices, by index, that share the statistics of one worker, or None.
      axis_name: `AXIS` where statistics cross devices, else None.
    """

    batch_size: int
    per_device: int
    virtual_batch_size: int | None = None
    axis_index_groups: tuple[tuple[int, ...], ...] | None = None
    axis_name: str | None = None


def layout_workers(
    num_workers: int, images_per_worker: int, num_devices: int, *, sync_batch_stats: bool = False
) -> WorkerLayout:
    """Lays `num_workers` workers of `images_per_worker` images on `num_devices` devices.

    Several workers share a device (by virtual batches), or several devices share a worker (by
    groups of devices that average their statistics); both train as if every worker were a device.

    >>> layout_workers(8, 4, num_devices=2)
    WorkerLayout(batch_size=32, per_device=16, virtual_batch_size=4, axis_index_groups=None, \
axis_name=None)

    Args:
      num_workers: Number of workers, each with batch statistics of its own.
      images_per_worker: Images whose statistics are taken together.
      num_devices: Devices of all processes.
      sync_batch_stats: Whether there is one set of statistics over all workers instead.

    Raises:
      UserError: Neither of workers and devices divides the other.
    """
    for name, value in (("num_workers", num_workers), ("images_per_worker", images_per_worker)):
        if value < 1:
            raise UserError(f"config.{name} is {value}; it must be at least 1.")
    batch_size = num_workers * images_per_worker
    if batch_size % num_devices:
        raise UserError(
            f"The global batch of {batch_size} images (num_workers={num_workers} x "
            f"images_per_worker={images_per_worker}) cannot be divided over {num_devices} devices. "
            f"Choose a product that is a multiple of {num_devices}."
        )
    per_device = batch_size // num_devices
    if sync_batch_stats:
        axis_name = AXIS if num_devices > 1 else None
        return WorkerLayout(batch_size, per_device, axis_name=axis_name)
    if num_workers % num_devices == 0:
        virtual = images_per_worker if num_workers > num_devices else None
        return WorkerLayout(batch_size, per_device, virtual_batch_size=virtual)
    if num_devices % num_workers == 0:
        span = num_devices // num_workers
        groups = tuple(tuple(range(w * span, (w + 1) * span)) for w in range(num_workers))
        return WorkerLayout(
            batch_size,
            per_device,
            axis_index_groups=None if num_workers == 1 else groups,
            axis_name=AXIS,
        )
    raise UserError(
        f"num_workers={num_workers} cannot be laid on {num_devices} devices: one must be a "
        "multiple of the other, so that no worker's statistics are split unevenly. Change "
        "config.num_workers, or make fewer devices visible (CUDA_VISIBLE_DEVICES)."
    )


class DataParallel:
    """The devices of a run, and what crosses them.

    Args:
      devices: Devices of all processes in global order; all there are by default.
    """

    def __init__(self, devices: Sequence[jax.Device] | None = None):
        self.devices = tuple(jax.devices() if devices is None else devices)
        self.local_devices = tuple(
            d for d in self.devices if d.process_index == jax.process_index()
        )
        mesh = Mesh(np.array(self.local_devices), (AXIS,))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._sharded = NamedSharding(mesh, PartitionSpec(AXIS))

    @property
    def hosts(self) -> Hosts:
        """This process among all processes, for the input pipelines."""
        return Hosts(
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            local_device_count=len(self.local_devices),
        )

    def replicate(self, tree: Any) -> Any:
        """Puts one copy of every leaf on each local device."""
        return jax.device_put(tree, self._replicated)

    def shard(self, batch: Any) -> Any:
        """Puts row `i` of leaves `[local_devices, ...]` on local device `i`."""
        return jax.device_put(batch, self._sharded)

    def parallelize(
        self, step: Callable[..., Any], *, donate_state: bool = False
    ) -> Callable[..., Any]:
        """Maps `step(state, resident, batch)` over the devices.

        `state` and `resident` are replicated and `batch` is sharded. All that the step returns must
        have been reduced over `AXIS`.
        """
        return jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=(None, None, 0),
            out_axes=None,
            devices=None if len(self.devices) == jax.device_count() else self.devices,
            donate_argnums=(0,) if donate_state else (),
        )


def mean_over_devices(tree: Any) -> Any:
    """Averages arrays over `AXIS`, each in its own dtype; on several GPUs they cross in one buffer.

    XLA:GPU joins few of the reductions by itself. Compiled for eight H100 by jax 0.11, the step of
    a ResNet-50 with S0 (128 images each, bfloat16) has 34 all-reduces and 1,572 kernels, with the
    buffer 1 and 1,042; it takes 5.6 instead of 4.8 GB of scratch memory. On TPU and CPU the
    compiler joins them. The numbers are the same either way.
    """
    if lax.axis_size(AXIS) == 1:
        return _plain_mean(tree)
    return lax.platform_dependent(tree, cuda=joined_mean, rocm=joined_mean, default=_plain_mean)


def _plain_mean(tree: Any) -> Any:
    # A collection may count in integers, whose mean is a float.
    return jax.tree.map(lambda x, mean: mean.astype(x.dtype), tree, lax.pmean(tree, AXIS))


def joined_mean(tree: Any) -> Any:
    """Averages arrays over `AXIS` in one buffer, of the widest of their dtypes."""
    buffer, unravel = ravel_pytree(tree)
    return unravel(lax.pmean(buffer, AXIS))


def positions(per_device: int) -> jax.Array:
    """Returns the positions of this device's examples in the global batch, inside a step.

    Args:
      per_device: Examples of a device's share.

    Returns:
      `[per_device]`, int32.
    """
    return jax.lax.axis_index(AXIS) * per_device + jnp.arange(per_device)


def keys_at(key: jax.Array, numbers: jax.Array) -> jax.Array:
    """Derives one key for each number; for positions it is the same on any number of devices.

    Args:
      key: A typed PRNG key.
      numbers: `[N]` integers.

    Returns:
      `[N]` typed PRNG keys.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)


def gather_rows(rows: Any) -> Any:
    """Puts the rows of all devices one after the other, on every device, inside a step.

    Args:
      rows: Arrays `[b, ...]` of this device's share.

    Returns:
      The same arrays as `[global batch, ...]`, in the order of `positions`.
    """
    return jax.lax.all_gather(rows, AXIS, tiled=True)


def to_host(tree: Any) -> Any:
    """Copies replicated arrays to NumPy: one replica, in memory of its own.

    The copy matters on CPU, where `np.asarray` is a view of a buffer that a donating step
    overwrites.
    """
    return jax.tree.map(lambda x: np.array(x.addressable_data(0)), tree)


def replica_divergence(tree: Any) -> float:
    """Returns the largest difference between any replica and the first; 0 for a healthy state."""
    worst = 0.0
    for leaf in jax.tree.leaves(tree):
        first, *others = (np.asarray(s.data, np.float64) for s in leaf.addressable_shards)
        worst = max([worst, *(float(np.max(np.abs(o - first), initial=0.0)) for o in others)])
    return worst
