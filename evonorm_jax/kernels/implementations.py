"""The closed list of implementations, and what None stands for, in one place."""

import jax

from evonorm_jax.errors import UserError

#: What `implementation=` accepts beside None: the kernel of EvoNorm-S0 on a Hopper GPU, else "xla".
IMPLEMENTATIONS = ("xla", "reference", "pallas", "pallas_interpret")

#: The hand-written GPU kernel, and the same run by an interpreter on any device.
PALLAS = ("pallas", "pallas_interpret")


def is_reference(implementation: str | None) -> bool:
    """Whether the plain transcription is asked for.

    Raises:
      UserError: an unknown implementation, or a hand-written kernel where there is none.
    """
    if implementation is None or implementation in ("xla", "reference"):
        return implementation == "reference"
    if implementation in PALLAS:
        raise UserError(
            f"implementation={implementation!r} exists for EvoNorm-S0 alone: use None (automatic), "
            "'xla' or 'reference'"
        )
    known = ", ".join(repr(name) for name in IMPLEMENTATIONS)
    raise UserError(f"implementation={implementation!r} is unknown: use None (automatic), {known}")


def compute_capability() -> str | None:
    """Of the GPU that programs run on by default, "9.0" for Hopper; None if that is no GPU."""
    if jax.default_backend() != "gpu":
        return None
    return str(getattr(jax.local_devices()[0], "compute_capability", "unknown"))


def without_kernel() -> str | None:
    """Why the GPU here cannot run the hand-written kernel; None if it can, or there is none."""
    capability = compute_capability()
    if capability is None or capability.startswith("9."):
        return None
    return (
        "there is a kernel for NVIDIA Hopper GPUs (compute capability 9.0) alone, and "
        f"{jax.local_devices()[0].device_kind} has {capability}"
    )


def prefers_kernel() -> bool:
    """Whether the program that is being traced is for a Hopper GPU, and for that alone."""
    return compute_capability() is not None and without_kernel() is None and not is_partitioned()


def is_partitioned() -> bool:
    """Whether the compiler may lay the program that is being traced on several devices.

    It does not where there is one device, in `pmap`, and in `shard_map` over all axes of its mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    is_one_devices = jax.device_count() == 1 or (not mesh.empty and mesh.are_all_axes_manual)
    return not is_one_devices
