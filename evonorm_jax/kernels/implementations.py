"""The closed list of implementations, in one place."""

from evonorm_jax.errors import UserError

#: What `implementation=` accepts beside None, which means the first.
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
