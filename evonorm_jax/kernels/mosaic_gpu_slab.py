"""How the GPU kernels cut a tensor: the slab of a thread block, its tiles, and what it costs.

The numbers are Hopper's (compute capability 9.0).
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax.experimental.pallas import mosaic_gpu as plgpu

#: What the kernels read and write; arithmetic is float32.
DTYPES = ("float32", "bfloat16")

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
_MAX_VALUES_PER_THREAD = 32  # of one tile; the backward pass keeps three sums of that size

_WARPS = 4  # in a warpgroup
_LANES = 32  # in a warp


@dataclasses.dataclass(frozen=True)
class Slab:
    """How a thread block lays out its part of `[N, H*W, C]`.

    Attributes:
      rows: H*W.
      channels: neighbouring channels in the slab, whole groups.
      group_size: channels of a group.
      itemsize: bytes of a value.
    """

    rows: int
    channels: int
    group_size: int
    itemsize: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the slab."""
        return self.channels * self.itemsize

    @property
    def _lane_columns(self) -> int:
        """Columns that the lanes of a warp cover side by side: 2 to 16 vectors."""
        return math.gcd(self.channels, _LANES // 2 * _VECTOR)

    @property
    def step_rows(self) -> int:
        """Rows that a warpgroup covers with one vector per thread (and group of lane columns)."""
        return _WARPS * _LANES * _VECTOR // self._lane_columns

    @property
    def tile_rows(self) -> int:
        """Rows of one bulk copy, which is also what a warpgroup works on at once.

        Up to 16 values per thread, enough independent work to hide latencies, as long as the rows
        that pad the last tile stay below a sixteenth of the slab.
        """
        step = self.step_rows
        for rows in (4 * step, 2 * step):
            small = rows <= _MAX_COPY and rows * self.channels <= _TILE_VALUES
            spared = self._padded_rows(rows) - self._padded_rows(step)
            if small and 16 * spared <= self.rows:
                return rows
        return step

    @property
    def warpgroups(self) -> int:
        """Groups of 128 threads that take the tiles in turn."""
        return self._warpgroups(self.tile_rows)

    @property
    def tiles(self) -> int:
        """Tiles of the slab, the same number for each warpgroup."""
        return self._padded_rows(self.tile_rows) // self.tile_rows

    def _warpgroups(self, tile_rows: int) -> int:
        return 2 if self.rows > tile_rows else 1

    def _padded_rows(self, tile_rows: int) -> int:
        unit = tile_rows * self._warpgroups(tile_rows)
        return unit * math.ceil(self.rows / unit)

    @property
    def pool_rows(self) -> int:
        """Rows of the matrix that pools channels into groups."""
        return self.step_rows * math.ceil(self.channels / self.step_rows)

    def layout(self) -> Any:
        """Of a `[rows, channels]` value: 4 neighbours per thread, whole rows per warp.

        The accesses to shared memory are wide and free of bank conflicts, and a thread always meets
        the same columns, so a sum over rows stays in its registers until the end. (The layout of
        the matrix units, `Layout.WGMMA`, takes 2 neighbours, and without swizzling, which needs
        H*W to be a multiple of 8, meets 2- to 8-way conflicts.)
        """
        columns, rows = self._lane_columns, self.step_rows // _WARPS
        tiling = plgpu.Tiling(((self.step_rows, columns), (rows, columns), (_VECTOR,)))
        # Indices after tiling: warp, 1, row of the warp, vector of the row, value of the vector.
        return plgpu.Layout.TILED(tiling, warp_dims=(-5,), lane_dims=(-3, -2), vector_dim=-1)

    def shared_bytes(self, slabs: int) -> int:
        """Shared memory of a block that holds `slabs` slabs."""
        vectors = 4 * self.channels
        sizes = (
            *(slabs * [self.tiles * self.tile_rows * self.row_bytes]),
            self.warpgroups * 3 * vectors,  # exchange
            self.warpgroups * 4 * self.pool_rows,  # pool
            3 * vectors,  # results
            8 * self.tiles * slabs,  # barriers
            8 * 2 * self.warpgroups,
        )
        return REDUCTION_BYTES + sum(_ALIGNMENT * math.ceil(size / _ALIGNMENT) for size in sizes)


def plan(shape: tuple[int, ...], dtype: Any, num_groups: int, slabs: int) -> Slab | str:
    """The slab for x `[N, H, W, C]`, or why there is none.

    The widest block of channels, up to a cache line, that lets two thread blocks share a
    multiprocessor, so that one copies while the other computes; else the widest that fits.
    """
    _, height, width, channels = shape
    dtype = jnp.dtype(dtype)
    if dtype.name not in DTYPES:
        return f"x is {dtype.name}, and the GPU kernels take {' or '.join(DTYPES)}"
    if channels % _CHANNELS:
        return f"x has {channels} channels, and the GPU kernels take multiples of {_CHANNELS}"
    group_size = channels // num_groups
    blocks = [
        Slab(height * width, block, group_size, dtype.itemsize)
        for block in range(group_size, channels + 1, group_size)
        if channels % block == 0 and block % _CHANNELS == 0 and block <= _MAX_COPY
    ]
    limit = _MAX_VALUES_PER_THREAD * _WARPS * _LANES
    blocks = [block for block in blocks if block.step_rows * block.channels <= limit]
    if not blocks:
        return (
            f"{channels} channels in groups of {group_size} cannot be cut into blocks of whole "
            f"groups, multiples of {_CHANNELS} channels, that a thread block can copy and hold"
        )
    # Narrow rows first, and a row beyond a cache line only where a group is that wide.
    narrow = [block for block in blocks if block.row_bytes <= _LINE_BYTES] or blocks[:1]
    for limit, least in ((_HALF_SHARED_BYTES, _SECTOR_BYTES), (_SHARED_BYTES, 0)):
        for block in reversed(narrow):
            if block.shared_bytes(slabs) <= limit and block.row_bytes >= least:
                return block
    return (
        f"{slabs} slab(s) of {height} x {width} pixels by {narrow[0].channels} channels take "
        f"{narrow[0].shared_bytes(slabs)} bytes of shared memory, and a Hopper GPU has "
        f"{_SHARED_BYTES} for a thread block"
    )
