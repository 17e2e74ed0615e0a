"""The closed list of implementations, in one place."""

from evonorm_jax.errors import UserError

#: What `implementation=` accepts beside None, which means the first.
IMPLEMENTATIONS = ("xla", "reference")

#: Reserved for hand-written GPU and TPU kernels; not part of this version.
RESERVED = ("pallas", "pallas_interpret")


def is_reference(implementation: str | None) -> bool:
    """Whether the plain transcription is asked for.

    Raises:
      UserError: an unknown implementation, or one that this version does not have.
    """
    if implementation is None or implementation in IMPLEMENTATIONS:
        return implementation == "reference"
    known = ", ".join(repr(name) for name in IMPLEMENTATIONS)
    reason = "is not available in this version" if implementation in RESERVED else "is unknown"
    raise UserError(f"implementation={implementation!r} {reason}: use None (automatic), {known}")
