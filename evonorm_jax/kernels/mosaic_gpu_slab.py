"""How the GPU kernels cut a tensor: the slab of a thread block, its tiles, and what it costs.

The numbers are Hopper's (compute capability 9.0).
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

#: What the kernels read and write; arithmetic is float32.
DTYPES = ("float32", "bfloat16")
#: Thread blocks that may share a slab: those of a cluster, 8 at most on every Hopper GPU.
PARTS = (1, 2, 4, 8)

# Hopper: shared memory that one block may have, and that two may have side by side (the 228 KB of
# a multiprocessor less 1 KB that the system takes for each block).
_SHARED_BYTES = 232_448
_HALF_SHARED_BYTES = (233_472 - 2 * 1024) // 2

_ALIGNMENT = 1024  # of every allocation in shared memory
#: Mosaic's own scratch for sums across warps.
REDUCTION_BYTES = 2048

_VECTOR = 4  # neighbouring values of a thread; Mosaic sums across warps by at most 4 float32
_CHANNELS = 8  # a block has a multiple: rows of whole granules (16 bytes) of the copy engine
_SECTOR_BYTES = 32  # the smallest transfer from device memory
_LINE_BYTES = 128  # a cache line: wider rows only make fewer blocks
_TILE_VALUES = 16 * 128  # 16 per thread
_MAX_COPY = 256  # rows, or channels, of one bulk copy
_MAX_TILES = 32  # of a slab: Mosaic's limit of barriers in a group
_WIDE = 16  # values per thread in the narrowest tile; the backward pass keeps three sums of them
_WIDEST = 32

_MAX_SAMPLES = 65_535  # of CUDA's grids along every axis but the first
_WARPS = 4  # in a warpgroup
_LANES = 32  # in a warp


@dataclasses.dataclass(frozen=True)
class Slab:
    """How a thread block, or a cluster of them, lays out its part of `[N, H*W, C]`.

    Attributes:
      rows: H*W.
      channels: neighbouring channels in the slab, whole groups.
      group_size: channels of a group.
      itemsize: bytes of a value.
      tensors: slabs that the kernel holds at once: 1 forward (x), 2 backward (x and dy).
      parts: thread blocks that share the rows, a cluster.
    """

    rows: int
    channels: int
    group_size: int
    itemsize: int
    tensors: int
    parts: int = 1

    @property
    def stripe(self) -> int:
        """Channels that a warpgroup works on at once, and the width of a bulk copy.

        All of them, unless that is more values than its registers hold: 120 channels, the least
        that hold whole groups of 15 and whole granules of the copy engine, are five stripes of 24.
        """
        widths = [
            width
            for width in range(_CHANNELS, self.channels + 1, _CHANNELS)
            if self.channels % width == 0 and _values(width) <= _WIDEST
        ]
        good = [w for w in widths if _values(w) <= _WIDE and w * self.itemsize >= _SECTOR_BYTES]
        return max(good or widths)

    @property
    def stripes(self) -> int:
        """Stripes of the slab."""
        return self.channels // self.stripe

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of a stripe."""
        return self.stripe * self.itemsize

    @property
    def step_rows(self) -> int:
        """Rows that a warpgroup covers with one vector per thread (and group of lane columns)."""
        return _step_rows(self.stripe)

    @property
    def tile_rows(self) -> int:
        """Rows of one bulk copy, which is also what a warpgroup works on at once.

        Up to 16 values per thread, enough independent work to hide latencies, as long as the rows
        that pad the last tile stay below a sixteenth of the slab.
        """
        step = self.step_rows
        for rows in (4 * step, 2 * step):
            small = rows <= _MAX_COPY and rows * self.stripe <= _TILE_VALUES
            spared = (self._tiles(rows) * rows) - (self._tiles(step) * step)
            if small and 16 * spared <= self._share:
                return rows
        return step

    @property
    def tiles(self) -> int:
        """Tiles of each stripe in one thread block."""
        return self._tiles(self.tile_rows)

    @property
    def part_rows(self) -> int:
        """Rows of one thread block, those that pad the last tile included."""
        return self.tiles * self.tile_rows

    @property
    def last_part_rows(self) -> int:
        """Rows of the tensor in the last thread block of a cluster."""
        return self.rows - (self.parts - 1) * self.part_rows

    @property
    def warpgroups(self) -> int:
        """Groups of 128 threads that take the tiles in turn.

        512 threads on a multiprocessor: two, or four where there is no room for a second block: in
        shared memory, or in the registers (134 for a thread backward, where a stripe has 24
        channels and the lanes cover 8).
        """
        crowded = self.tensors == 2 and 8 == _lane_columns(self.stripe) < self.stripe
        slab_bytes = self.tensors * self.part_rows * self.channels * self.itemsize
        alone = crowded or slab_bytes > _HALF_SHARED_BYTES
        return min(self.tiles, 4 if alone else 2)

    @property
    def _share(self) -> int:
        return math.ceil(self.rows / self.parts)

    def _tiles(self, tile_rows: int) -> int:
        return math.ceil(self._share / tile_rows)

    @property
    def pool_rows(self) -> int:
        """Rows of the matrix that pools channels into groups."""
        return self.step_rows * math.ceil(self.channels / self.step_rows)

    def layout(self) -> Any:
        """Of a `[rows, stripe]` value: 4 neighbours per thread, whole rows per warp.

        The accesses to shared memory are wide and free of bank conflicts, and a thread always meets
        the same columns, so a sum over rows stays in its registers until the end. (The layout of
        the matrix units, `Layout.WGMMA`, takes 2 neighbours, and without swizzling, which needs
        H*W to be a multiple of 8, meets 2- to 8-way conflicts.)
        """
        columns, rows = _lane_columns(self.stripe), self.step_rows // _WARPS
        tiling = plgpu.Tiling(((self.step_rows, columns), (rows, columns), (_VECTOR,)))
        # Indices after tiling: warp, 1, row of the warp, vector of the row, value of the vector.
        return plgpu.Layout.TILED(tiling, warp_dims=(-5,), lane_dims=(-3, -2), vector_dim=-1)

    @property
    def vectors(self) -> int:
        """Per-channel vectors that a kernel exchanges and gives back: 2 forward, 3 backward."""
        return self.tensors + 1

    @property
    def exchanged(self) -> int:
        """Vectors that a block sends to the others of a cluster.

        An even number: Mosaic copies multiples of 128 bytes, and there are 2 blocks, and 8
        channels, at least.
        """
        return 2 * self.tensors

    @property
    def columns(self) -> int:
        """Per-channel operands of a kernel."""
        return 2 + self.tensors

    @property
    def shared_bytes(self) -> int:
        """Shared memory of a thread block."""
        channels = 4 * self.channels
        sizes = (
            *(self.tensors * [self.part_rows * self.channels * self.itemsize]),
            self.columns * channels,
            self.vectors * channels,  # sums
            2 * self.warpgroups * 4 * self.pool_rows,  # pools
            self.exchanged * channels,  # staged
            self.parts * self.exchanged * channels,  # gathered
        )
        barriers = 8 * (self.tensors * self.tiles * self.stripes + 4)
        return (
            REDUCTION_BYTES
            + _ALIGNMENT * math.ceil(barriers / _ALIGNMENT)
            + sum(_ALIGNMENT * math.ceil(size / _ALIGNMENT) for size in sizes)
        )

    @property
    def valid(self) -> bool:
        """Whether Mosaic and the copy engine can lay it out, whatever the memory it takes."""
        return self.last_part_rows > 0 and self.tiles * self.stripes <= _MAX_TILES


def plan(
    shape: tuple[int, ...],
    dtype: Any,
    num_groups: int,
    tensors: int,
    parts: int | None = None,
) -> Slab | str:
    """The slab for x `[N, H, W, C]`, or why there is none.

    The widest block of channels, up to a cache line, that lets two thread blocks share a
    multiprocessor, so that one copies while the other computes; else the widest that fits. A
    cluster, whose blocks wait for each other, only where one block cannot hold the slab, or with
    the `parts` asked for.
    """
    n, height, width, channels = shape
    dtype = jnp.dtype(dtype)
    if n > _MAX_SAMPLES:
        return f"x has {n} samples, and the GPU kernels take at most {_MAX_SAMPLES}"
    if dtype.name not in DTYPES:
        return f"x is {dtype.name}, and the GPU kernels take {' or '.join(DTYPES)}"
    if channels % _CHANNELS:
        return f"x has {channels} channels, and the GPU kernels take multiples of {_CHANNELS}"
    group_size = channels // num_groups
    widths = [
        block
        for block in range(group_size, min(channels, _MAX_COPY) + 1, group_size)
        if channels % block == 0 and block % _CHANNELS == 0
    ]
    if not widths:
        return (
            f"{channels} channels in groups of {group_size} cannot be cut into blocks of whole "
            f"groups, multiples of {_CHANNELS} and at most {_MAX_COPY} channels"
        )

    # Narrow rows first, and a row beyond a cache line only where a group is that wide.
    narrow = [w for w in widths if w * dtype.itemsize <= _LINE_BYTES] or widths[:1]
    allowed = PARTS if parts is None else (parts,)

    def slabs(parts: Sequence[int]) -> Iterator[Slab]:
        for count in parts:
            for block in reversed(narrow):
                yield Slab(height * width, block, group_size, dtype.itemsize, tensors, count)

    # Rows below a sector, half of what the memory sends, only where one block holds the slab.
    whole, cut = [p for p in allowed if p == 1], [p for p in allowed if p > 1]
    for counts, least in ((whole, _SECTOR_BYTES), (cut, _SECTOR_BYTES), (whole, 0)):
        for limit in (_HALF_SHARED_BYTES, _SHARED_BYTES):
            for slab in slabs(counts):
                if slab.valid and slab.shared_bytes <= limit and slab.row_bytes >= least:
                    return slab
    what = (
        f"{height} x {width} pixels by {narrow[0]} channels of {('x', 'x and dy')[tensors - 1]}, "
        f"shared by {max(allowed)} thread block(s),"
    )
    smallest = min(slab.shared_bytes for slab in slabs(allowed))
    if smallest <= _SHARED_BYTES:
        return f"{what} are not 1 to {_MAX_TILES} tiles for each of these"
    return (
        f"{what} take {smallest} bytes of shared memory in each, and a Hopper GPU has "
        f"{_SHARED_BYTES} for a thread block"
    )


def _lane_columns(width: int) -> int:
    """Columns that the lanes of a warp cover side by side: 2 to 16 vectors."""
    return math.gcd(width, _LANES // 2 * _VECTOR)


def _step_rows(width: int) -> int:
    return _WARPS * _LANES * _VECTOR // _lane_columns(width)


def _values(width: int) -> int:
    """Values per thread of the least tile of this width."""
    return _step_rows(width) * width // (_WARPS * _LANES)
