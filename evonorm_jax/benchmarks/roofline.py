"""The least time that a program's kernels can take on a chip: a prediction, not a measurement.

Every kernel takes at least its bytes divided by the bandwidth of the memory, and at least its FLOPs
divided by the peak of the matrix units; the larger of the two is summed over all kernels. Real
programs take longer: starting kernels, waiting for other devices and the arithmetic beside products
cost nothing here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from evonorm_jax.benchmarks.hlo_traffic import Kernel


@dataclasses.dataclass(frozen=True)
class Chip:
    """The figures that the vendor publishes of a chip.

    Attributes:
      bandwidth: Bandwidth of the memory, in bytes a second.
      peak: Peak of products of dense bfloat16 matrices, in FLOPs a second.
      memory: Size of the memory, in bytes.
      source: Publication in which the vendor gives these figures.
    """

    bandwidth: float
    peak: float
    memory: float
    source: str

    @property
    def description(self) -> str:
        """The figures in one line, for the report."""
        return (
            f"{self.bandwidth / 1e9:,.0f} GB/s, {self.peak / 1e12:,.0f} TFLOP/s in bfloat16, "
            f"{self.memory / 1e9:.0f} GB ({self.source})"
        )


CHIPS: Mapping[str, Chip] = {
    # 1,979 TFLOP/s there are with sparsity, twice what dense matrices get.
    "h100": Chip(3.35e12, 989.5e12, 80e9, "NVIDIA H100 Tensor Core GPU data sheet, SXM"),
    "tpu-v5e": Chip(819e9, 197e12, 16e9, "Google Cloud documentation, TPU v5e"),
    "tpu-v5p": Chip(2765e9, 459e12, 95e9, "Google Cloud documentation, TPU v5p"),
    # The documentation has also given 1,600 GB/s, and 800 for v5e: the same, rounded.
    "tpu-v6e": Chip(1640e9, 918e12, 32e9, "Google Cloud documentation, TPU v6e"),
}


def least_seconds(kernels: Iterable[Kernel], chip: Chip) -> float:
    """Returns the sum over all kernels of the least time that each takes, in seconds."""
    return sum(
        max(kernel.bytes / chip.bandwidth, kernel.count * kernel.flops / chip.peak)
        for kernel in kernels
    )
