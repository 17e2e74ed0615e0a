"""The list of implementations, and the rule for the one that None stands for."""

import jax

from evonorm_jax.errors import UserError

#: What `implementation=` accepts beside None (`evonorm_jax.kernels.evonorm` says what each is).
IMPLEMENTATIONS = ("xla", "reference", "pallas", "pallas_shortcut", "pallas_interpret")

#: The hand-written GPU kernel in its forms.
PALLAS = ("pallas", "pallas_shortcut", "pallas_interpret")

#: Those in which the kernel adds the gradient of a shortcut.
WITH_SHORTCUT = ("pallas_shortcut", "pallas_interpret")


def is_reference(implementation: str | None) -> bool:
    """Returns whether `implementation` asks for the plain formulas.

    Raises:
      UserError: The implementation is unknown, or is a hand-written kernel, which these layers do
        not have.
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
    """Returns the compute capability of the default GPU, "9.0" for Hopper.

    It returns None if programs do not run on a GPU by default.
    """
    if jax.default_backend() != "gpu":
        return None
    return str(getattr(jax.local_devices()[0], "compute_capability", "unknown"))


def without_kernel() -> str | None:
    """Returns why the GPU here cannot run the hand-written kernel.

    It returns None if the GPU can, or if there is no GPU.
    """
    capability = compute_capability()
    if capability is None or capability.startswith("9."):
        return None
    return (
        "there is a kernel for NVIDIA Hopper GPUs (compute capability 9.0) alone, and "
        f"{jax.local_devices()[0].device_kind} has {capability}"
    )


def prefers_kernel() -> bool:
    """Returns whether the program that is being traced is for a Hopper GPU, and for that alone."""
    return compute_capability() is not None and without_kernel() is None and not is_partitioned()


def is_partitioned() -> bool:
    """Returns whether the compiler may split the program being traced over several devices.

    It may not if there is one device, in `pmap`, or in `shard_map` over all axes of its mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    is_one_devices = jax.device_count() == 1 or (not mesh.empty and mesh.are_all_axes_manual)
    return not is_one_devices
