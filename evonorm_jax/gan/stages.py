"""The sizes of BigGAN-deep: one row for each image size.

A stage is two blocks, and the generator doubles the side of the map in the second one. A width is a
multiple of `num_filters`, the paper's ch. At 128 and 256 pixels the rows are those of Tables 7 and
8 of Brock, Donahue and Simonyan 2019 (arXiv:1809.11096); at 32 and 64 those of the first author's
PyTorch code (ajbrock/BigGAN-PyTorch, BigGANdeep.py); at 8 and 16 ours, after that at 32.

In the paper's networks the non-local block stands where maps are 64 pixels wide. The PyTorch code
has none at 32; that of 64 pixels, at 32, is ours.
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
      generator: widths; each stage goes from one to the next.
      discriminator: widths, likewise; the first is that of the convolution on the image.
      num_downsampled: how many stages of the discriminator halve the map; the first ones.
      attention_size: side of the maps that get the non-local block; None for none.
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
