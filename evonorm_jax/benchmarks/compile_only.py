"""Accelerators that are not there: programs can be compiled for these devices, but not run.

The compilers are those of the `aot` extra, NVIDIA's plugin and libtpu. They need neither device nor
driver. This is the only file that knows how JAX is asked for such devices.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib.util
import math
import os
from collections.abc import Mapping, Sequence

import jax

from evonorm_jax.benchmarks.roofline import CHIPS, Chip
from evonorm_jax.errors import UserError

#: What XLA asks of a GPU, as an H100 SXM answers (openxla/xla, xla/tools/hlo_opt/gpu_specs).
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  device_memory_size: 84929347584
  memory_bandwidth: 3352320000000
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

#: libtpu looks for these, and complains where they are missing and no TPU is near. The last lets
#: several processes load it, which only matters where they would share a TPU.
_WITHOUT_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

#: Modules of which one must be there, by platform.
_COMPILERS = {"gpu": ("jax_cuda13_plugin", "jax_cuda12_plugin"), "tpu": ("libtpu",)}


@dataclasses.dataclass(frozen=True)
class Target:
    """Connected devices of one kind, for which programs are compiled.

    Attributes:
      chip: Name of the chip in `roofline.CHIPS`.
      shape: Numbers of chips along the axes of a TPU slice, or the number of GPUs alone.
      compiles_parts: Whether programs of one device are compiled for it too. For the larger targets
        they would be the same again.
    """

    chip: str
    shape: tuple[int, ...]
    compiles_parts: bool = False

    @property
    def name(self) -> str:
        """Name of the target, and of the folder of its results."""
        if self.platform == "gpu":
            return self.chip if self.num_devices == 1 else f"{self.num_devices}x-{self.chip}"
        return f"{self.chip}-{'x'.join(map(str, self.shape))}"

    @property
    def platform(self) -> str:
        """Platform of the devices, either "gpu" or "tpu"."""
        return "tpu" if self.chip.startswith("tpu") else "gpu"

    @property
    def num_devices(self) -> int:
        """Number of chips."""
        return math.prod(self.shape)

    @property
    def published(self) -> Chip:
        """The figures that the vendor publishes of the chip."""
        return CHIPS[self.chip]


#: One host each, then pods of 32 and of 256 chips.
TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target("h100", (1,), compiles_parts=True),
        Target("h100", (8,)),
        Target("tpu-v5e", (2, 2), compiles_parts=True),
        Target("tpu-v5p", (2, 2, 1), compiles_parts=True),
        Target("tpu-v6e", (2, 2), compiles_parts=True),
        Target("tpu-v5e", (4, 8)),
        Target("tpu-v5p", (2, 4, 4)),
        Target("tpu-v6e", (4, 8)),
        Target("tpu-v5e", (16, 16)),
        Target("tpu-v5p", (4, 8, 8)),
        Target("tpu-v6e", (16, 16)),
    )
}


def choose_targets(patterns: Sequence[str] = ()) -> tuple[Target, ...]:
    """Returns the targets whose name matches a pattern; for (), all with an installed compiler.

    >>> [target.name for target in choose_targets(["tpu-v5e-*"])]
    ['tpu-v5e-2x2', 'tpu-v5e-4x8', 'tpu-v5e-16x16']

    Raises:
      UserError: A pattern matches no target, or no compiler is installed for ().
    """
    for pattern in patterns:
        if not fnmatch.filter(TARGETS, pattern):
            raise UserError(f"--targets: {pattern!r} matches none of {', '.join(TARGETS)}.")
    if patterns:
        return tuple(
            target
            for name, target in TARGETS.items()
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        )
    installed = tuple(target for target in TARGETS.values() if _has_compiler(target))
    if not installed:
        raise _missing_compiler(" or ".join(names[0] for names in _COMPILERS.values()))
    return installed


def find_devices(target: Target) -> list[jax.Device]:
    """Returns devices to lower and compile programs for; no array can be put on them.

    Raises:
      UserError: The compiler is not installed, or this version of JAX offers no such devices.
    """
    if not _has_compiler(target):
        raise _missing_compiler(_COMPILERS[target.platform][0])
    from jax.experimental import topologies

    try:
        if target.platform == "gpu":
            # Slices, hosts of a slice, GPUs of a host.
            topology = topologies.get_topology_desc(
                "", "cuda", target_config=_H100, topology=f"1x1x{target.num_devices}"
            )
        else:
            for variable, value in _WITHOUT_TPU.items():
                os.environ.setdefault(variable, value)
            shape = "x".join(map(str, target.shape))
            version = target.chip.removeprefix("tpu-")
            topology = topologies.get_topology_desc(f"{version}:{shape}", "tpu")
    except (AttributeError, NotImplementedError, TypeError) as error:
        raise UserError(
            f"JAX {jax.__version__} offers no compile-only devices for {target.name} in the way "
            f"that this suite asks for them ({error}); JAX 0.11.2 does."
        ) from error
    return list(topology.devices)


def _has_compiler(target: Target) -> bool:
    return any(importlib.util.find_spec(name) for name in _COMPILERS[target.platform])


def _missing_compiler(package: str) -> UserError:
    return UserError(
        f"The aot suite compiles for devices that are not there, and {package} is not installed, "
        'which holds the compiler: pip install -e ".[train,aot]".'
    )
