"""The sizes of BigGAN-deep: one row for each image size.

A stage is two blocks, and the generator doubles the side of the map in the second one. A width is a
multiple of `num_filters`, the paper's ch. The rows for 128 and 256 pixels are those of Tables 7 and
8 of Brock, Donahue and Simonyan 2019 (arXiv:1809.11096). Those for 32 and 64 pixels are from the
first author's PyTorch code (ajbrock/BigGAN-PyTorch, BigGANdeep.py). Those for 8 and 16 pixels are
our own, after the one for 32.

In the paper's networks the non-local block stands where maps are 64 pixels wide. The PyTorch code
has none for images of 32 pixels. For images of 64 pixels, its place at maps of 32 pixels is our own
choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

#: Side of the maps that the generator starts from, in pixels.
FIRST_SIZE = 4


class Stages(NamedTuple):
    """The networks for one image size.

    Attributes:
      generator: Widths of the generator; each stage goes from one width to the next.
      discriminator: Widths of the discriminator; the first is that of the convolution on the image,
        and each stage goes from one width to the next.
      num_downsampled: Number of stages of the discriminator, from the first on, that halve the map.
      attention_size: Side in pixels of the maps that get the non-local block; None for no such
        block.
    """

    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    num_downsampled: int
    attention_size: int | None


#: Image size in pixels -> stages.
STAGES: Mapping[int, Stages] = MappingProxyType(
    {
        8: Stages((4, 4), (4, 4, 4), 1, None),
        16: Stages((4, 4, 4), (4, 4, 4, 4), 2, None),
        32: Stages((4, 4, 4, 4), (4, 4, 4, 4), 2, None),
        64: Stages((16, 16, 8, 4, 2), (1, 2, 4, 8, 16), 4, 32),
        128: Stages((16, 16, 8, 4, 2, 1), (1, 2, 4, 8, 16, 16), 5, 64),
        256: Stages((16, 16, 8, 8, 4, 2, 1), (1, 2, 4, 8, 8, 16, 16), 6, 64),
    }
)
