"""The way the GPU kernels cut a tensor: the slab of a thread block, its tiles and its costs.

The numbers are Hopper's (compute capability 9.0).
"""

import dataclasses
import math
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
_NARROW_BLOCKS = (8, 16, 32)  # widths of a block beside the multiples of 64
_SECTOR_BYTES = 32  # the smallest transfer from device memory
_ENOUGH_BYTES = 64  # of a row: no cluster for wider ones
_LINE_BYTES = 128  # a cache line: wider rows only make fewer blocks
_FEW_PARTS = 4  # more only where two blocks would not share a multiprocessor
_FORWARD_CHANNELS = 32  # the best width forward, for maps of more pixels than one bulk copy takes
_TILE_VALUES = 16 * 128  # 16 per thread
_MAX_COPY = 256  # rows, or channels, of one bulk copy
_MAX_TILES = 32  # of a slab: Mosaic's limit of barriers in a group

_MAX_SAMPLES = 65_535  # of CUDA's grids along every axis but the first
_WARPS = 4  # in a warpgroup
_LANES = 32  # in a warp


@dataclasses.dataclass(frozen=True)
class Slab:
    """The layout of the part of `[N, H*W, C]` that a thread block or a cluster of them takes.

    Attributes:
      rows: Number of rows, H*W.
      channels: Number of neighbouring channels in the slab, which are whole groups.
      group_size: Number of channels of a group.
      itemsize: Bytes of a value.
      tensors: Number of slabs that the kernel holds at once: 1 forward (x), 2 backward (x and dy).
      parts: Number of thread blocks that share the rows; they are a cluster.
    """

    rows: int
    channels: int
    group_size: int
    itemsize: int
    tensors: int
    parts: int = 1

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the slab, which are neighbours in device memory."""
        return self.channels * self.itemsize

    @property
    def step_rows(self) -> int:
        """Number of rows that a warpgroup covers with one vector per thread.

        If the slab is wider than the columns of the lanes, a thread takes one such vector for each
        group of these columns.
        """
        return _step_rows(self.channels)

    @property
    def small(self) -> bool:
        """Whether one warpgroup and one bulk copy each way do the whole slab.

        Then many blocks share a multiprocessor: one copies while others compute, and none waits
        for other warpgroups or for one tile after the other.
        """
        rows = self._tiles(self.step_rows) * self.step_rows
        return self.parts == 1 and rows <= _MAX_COPY and rows * self.channels <= 2 * _TILE_VALUES

    @property
    def tile_rows(self) -> int:
        """Number of rows that a warpgroup works on at once, and of a bulk copy unless `small`.

        A thread takes up to 16 values, enough independent work to hide latencies, as long as the
        rows that pad the last tile stay within a sixteenth of the slab. If a small slab takes more
        than one such tile, a thread takes up to 8 values, and the padding may be a quarter: other
        blocks hide latencies too, if they find registers (for 64 channels backward a thread needs
        64 registers with 8 values, 98 with 16).
        """
        step = self.step_rows
        least = self._tiles(step) * step
        if self.small and least * self.channels <= _TILE_VALUES:
            return least
        values, fraction = (_TILE_VALUES // 2, 4) if self.small else (_TILE_VALUES, 16)
        for rows in (4 * step, 2 * step):
            light = rows <= _MAX_COPY and rows * self.channels <= values
            if light and fraction * (self._tiles(rows) * rows - least) <= self._share:
                return rows
        return step

    @property
    def tiles(self) -> int:
        """Number of tiles in one thread block."""
        return self._tiles(self.tile_rows)

    @property
    def copies(self) -> int:
        """Number of bulk copies that bring a tensor in."""
        return 1 if self.small else self.tiles

    @property
    def copy_rows(self) -> int:
        """Number of rows of each of the `copies`."""
        return self.part_rows if self.small else self.tile_rows

    @property
    def part_rows(self) -> int:
        """Number of rows of one thread block, those that pad the last tile included."""
        return self.tiles * self.tile_rows

    @property
    def last_part_rows(self) -> int:
        """Number of rows of the tensor in the last thread block of a cluster."""
        return self.rows - (self.parts - 1) * self.part_rows

    @property
    def padded(self) -> bool:
        """Whether the last tile has more rows than are left of the sample."""
        return self.parts * self.part_rows > self.rows

    @property
    def warpgroups(self) -> int:
        """Number of groups of 128 threads that take the tiles in turn.

        A multiprocessor runs up to 512 threads: two groups in each of two blocks, or four groups
        where there is no room in shared memory for a second block.
        """
        if self.small:
            return 1
        slab_bytes = self.tensors * self.part_rows * self.row_bytes
        return min(self.tiles, 4 if slab_bytes > _HALF_SHARED_BYTES else 2)

    @property
    def _share(self) -> int:
        return math.ceil(self.rows / self.parts)

    def _tiles(self, tile_rows: int) -> int:
        return math.ceil(self._share / tile_rows)

    @property
    def pool_rows(self) -> int:
        """Number of rows of the matrix that pools channels into groups."""
        return self.step_rows * math.ceil(self.channels / self.step_rows)

    def layout(self) -> Any:
        """Returns the layout of a `[rows, channels]` value over the threads of a warpgroup.

        A thread has 4 neighbours, and a warp has whole rows. The accesses to shared memory are wide
        and free of bank conflicts, and a thread always has the same columns, so a sum over rows
        stays in its registers until the end. (The layout of the matrix units, `Layout.WGMMA`, takes
        2 neighbours. Without swizzling, which needs H*W to be a multiple of 8, it has 2- to 8-way
        conflicts.)
        """
        columns, rows = _lane_columns(self.channels), self.step_rows // _WARPS
        tiling = plgpu.Tiling(((self.step_rows, columns), (rows, columns), (_VECTOR,)))
        # Indices after tiling: warp, 1, row of the warp, vector of the row, value of the vector.
        return plgpu.Layout.TILED(tiling, warp_dims=(-5,), lane_dims=(-3, -2), vector_dim=-1)

    @property
    def vectors(self) -> int:
        """Number of per-channel vectors that a kernel sums and returns: 2 forward, 3 backward."""
        return self.tensors + 1

    @property
    def exchanged(self) -> int:
        """Number of vectors that a block sends to the others of a cluster.

        It is even, because Mosaic copies multiples of 128 bytes, and a cluster has at least 2
        blocks and 8 channels.
        """
        return 2 * self.tensors

    @property
    def columns(self) -> int:
        """Number of per-channel operands of a kernel."""
        return 2 + self.tensors

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory of a thread block."""
        channels = 4 * self.channels
        sizes = (
            *(self.tensors * [self.part_rows * self.row_bytes]),
            self.columns * channels,
            self.vectors * channels,  # sums
            self.warpgroups * 4 * self.pool_rows,  # pools
            self.exchanged * channels,  # staged
            self.parts * self.exchanged * channels,  # gathered
        )
        barriers = 8 * (self.tensors * self.copies + 4)
        return (
            REDUCTION_BYTES
            + _ALIGNMENT * math.ceil(barriers / _ALIGNMENT)
            + sum(_ALIGNMENT * math.ceil(size / _ALIGNMENT) for size in sizes)
        )

    @property
    def shares_multiprocessor(self) -> bool:
        """Whether two thread blocks fit side by side, so that one copies while one computes."""
        return self.shared_bytes <= _HALF_SHARED_BYTES

    @property
    def valid(self) -> bool:
        """Whether Mosaic and the copy engine can lay the slab out, whatever memory it takes."""
        return self.last_part_rows > 0 and self.tiles <= _MAX_TILES


def plan(
    shape: tuple[int, ...],
    dtype: Any,
    num_groups: int,
    tensors: int,
    parts: int | None = None,
) -> Slab | str:
    """Returns the fastest slab for x `[N, H, W, C]`, or the reason in words if there is none.

    If `parts` is not None, it considers only slabs with that many parts.
    """
    if not all(isinstance(size, int) for size in shape):
        return f"x is {list(shape)}, and the GPU kernels are made for numbers, not for symbols"
    n, height, width, channels = shape
    dtype = jnp.dtype(dtype)
    if n > _MAX_SAMPLES:
        return f"x has {n} samples, and the GPU kernels take at most {_MAX_SAMPLES}"
    if dtype.name not in DTYPES:
        return f"x is {dtype.name}, and the GPU kernels take {' or '.join(DTYPES)}"
    if channels % _CHANNELS:
        return f"x has {channels} channels, and the GPU kernels take multiples of {_CHANNELS}"
    group_size = channels // num_groups
    # Blocks of 24 or 40 channels and the like leave lanes idle or cover a row in many steps: the
    # layer takes 497 us at 128x56x56x144 (XLA: 363), 207 at 128x28x28x240 (164) and 850 at
    # 512x7x7x1280 (224), forward + backward in bfloat16 on an H200.
    widths = [
        block
        for block in range(group_size, min(channels, _MAX_COPY) + 1, group_size)
        if channels % block == 0 and block in (*_NARROW_BLOCKS, *range(64, _MAX_COPY + 1, 64))
    ]
    if not widths:
        return (
            f"{channels} channels in groups of {group_size} cannot be cut into blocks of whole "
            f"groups that have 8, 16, 32 or a multiple of 64 channels, at most {_MAX_COPY}"
        )
    # A row beyond a cache line only where a group is that wide.
    narrow = [w for w in widths if w * dtype.itemsize <= _LINE_BYTES] or widths[:1]
    slabs = [
        Slab(height * width, block, group_size, dtype.itemsize, tensors, count)
        for count in (PARTS if parts is None else (parts,))
        for block in narrow
    ]
    what = f"{height} x {width} pixels by {narrow[0]} channels of {('x', 'x and dy')[tensors - 1]}"
    fitting = [slab for slab in slabs if slab.shared_bytes <= _SHARED_BYTES]
    if not fitting:
        smallest = min(slab.shared_bytes for slab in slabs)
        return (
            f"{what}, shared by {slabs[-1].parts} thread block(s), take {smallest} bytes of shared "
            f"memory in each, and a Hopper GPU has {_SHARED_BYTES} for a thread block"
        )
    fitting = [slab for slab in fitting if slab.valid]
    if not fitting:
        return (
            f"{what}, shared by {slabs[-1].parts} thread block(s), are not 1 to {_MAX_TILES} tiles "
            "for each of these"
        )
    # A tile that has all channels of x is one piece of memory. Mosaic copies it out by an
    # instruction that knows no rows and stops only at the end of the whole tensor: the rows that
    # pad the last tile of a sample would overwrite the first rows of the next.
    fitting = [s for s in fitting if s.channels < channels or s.small or not s.padded]
    # Less than a sector of each row costs as much as a sector.
    fitting = [s for s in fitting if s.row_bytes >= _SECTOR_BYTES or s.channels == channels]
    if not fitting:
        return (
            f"{what} are not whole tiles, and there are no blocks of fewer channels with rows of "
            f"{_SECTOR_BYTES} bytes"
        )
    return max(fitting, key=_preference)


def _preference(slab: Slab) -> tuple[int, ...]:
    """Returns a key that orders slabs by their speed on an H100 and an H200.

    The first entry counts most. With 128 images in bfloat16, the forward and backward pass of
    56 x 56 x 256 takes 539 us with rows of 32 bytes in one block, 481 with 32 to 64 in two, and 461
    with 64 to 128 in four. The backward pass of 112 x 112 x 32 takes 178 us in eight blocks of
    which two share a multiprocessor, and 212 in four that do not. The forward pass is fastest with
    32 channels: 148 instead of 160 us with 64 at 56 x 56 x 256, 77 instead of 88 at 28 x 28 x 512,
    172 instead of 184 with 16 at 112 x 112 x 64.
    """
    enough = slab.row_bytes >= _ENOUGH_BYTES
    if slab.tensors == 1 and slab.rows > _MAX_COPY:
        distance = abs(slab.channels - _FORWARD_CHANNELS)
        return slab.shares_multiprocessor, enough, slab.parts == 1, -distance, -slab.parts
    return (
        slab.shares_multiprocessor,
        slab.parts <= _FEW_PARTS,
        enough,
        slab.parts == 1,
        slab.row_bytes,
        -slab.parts,
    )


def _lane_columns(width: int) -> int:
    """Returns how many columns the lanes of a warp cover side by side: 2 to 16 vectors."""
    return math.gcd(width, _LANES // 2 * _VECTOR)


def _step_rows(width: int) -> int:
    return _WARPS * _LANES * _VECTOR // _lane_columns(width)
