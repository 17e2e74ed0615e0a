"""What one thread block of the GPU kernels does with its slab, as seen from its warpgroups."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from evonorm_jax.kernels.mosaic_gpu_slab import Slab

Vectors = tuple[jax.Array, ...]
#: `(stripe, term)` to the sums of `term(rows, *values)` over the blocks of a cluster.
Parts = Callable[[Any, Callable[..., Vectors]], Vectors]


class Block:
    """The program of one thread block, seen from one of its warpgroups.

    A stripe is given by its index; `[stripe]` is a vector with one value for each of its channels.
    """

    def __init__(
        self, slab: Slab, tensors: Sequence[Any], outputs: Sequence[Any], scratch: dict[str, Any]
    ) -> None:
        self.slab = slab
        self._tensors = tensors
        self._output, self._results, *self._partials = outputs
        self._scratch = scratch
        self._layout = slab.layout()
        self._columns_layout = self._layout.reduce(0)
        self._warpgroup = lax.axis_index("warpgroup") if slab.warpgroups > 1 else 0
        self._part = lax.axis_index("part") if slab.parts > 1 else 0
        self._sample = lax.axis_index("sample")
        self._index = lax.axis_index("block")

    # Copies in.

    def fetch(self, columns: Sequence[Any]) -> None:
        """Starts the copies of this warpgroup's tiles, and copies the per-channel operands.

        These are `[C]`, or several in `[K, N, C]`.
        """
        scratch = self._scratch

        def fetch_stripe(stripe: Any) -> None:
            def fetch_tile(tile: Any) -> None:
                for ref, shared, loaded in zip(
                    self._tensors, scratch["slabs"], scratch["loaded"], strict=True
                ):
                    source = ref.at[self._sample, self._rows(tile), self._channels(stripe)]
                    barrier = loaded.at[stripe * self.slab.tiles + tile]
                    plgpu.copy_gmem_to_smem(source, shared.at[stripe, tile], barrier)

            self._for_each_tile(lambda tile, _: fetch_tile(tile))

        def fetch_columns(stripe: Any) -> None:
            channels = self._channels(stripe)
            sources = []
            for ref in columns:
                if len(ref.shape) == 1:
                    sources.append(ref.at[channels])
                else:
                    sources += [ref.at[i, self._sample, channels] for i in range(ref.shape[0])]
            # All loads before the first store, which waits.
            values = [self._load(source) for source in sources]
            for i, value in enumerate(values):
                scratch["columns"][i, self._within(stripe)] = value

        self.for_each_stripe(fetch_stripe)
        self._on_first_warpgroup(lambda: self.for_each_stripe(fetch_columns))
        self._join()

    def column(self, operand: int, stripe: Any) -> jax.Array:
        """A per-channel operand, `[stripe]`."""
        return self._load(self._scratch["columns"].at[operand, self._within(stripe)])

    # Sums, means, and what the blocks of a cluster tell each other.

    def sums(
        self, first_sum: int, terms_of: Callable[[Any], Callable[..., Vectors]], *, first: bool
    ) -> None:
        """Takes sums over the rows; they are then found under `total`, from `first_sum` on.

        `terms_of(stripe)` gives the function whose values, `terms(tile, *values)`, are summed.
        `first` says that the tiles may still be on their way.
        """
        slab, scratch = self.slab, self._scratch
        zero = plgpu.layout_cast(
            jnp.zeros((slab.tile_rows, slab.stripe), jnp.float32), self._layout
        )

        def sum_stripe(stripe: Any) -> None:
            terms = terms_of(stripe)
            count = len(jax.eval_shape(terms, 0, *(zero for _ in self._tensors)))

            def step(tile: Any, totals: Vectors) -> Vectors:
                if first:
                    for loaded in scratch["loaded"]:
                        plgpu.barrier_wait(loaded.at[stripe * slab.tiles + tile])
                values = terms(tile, *self._values(stripe, tile))
                return tuple(total + value for total, value in zip(totals, values, strict=True))

            totals = self._for_each_tile(step, (zero,) * count)

            def add() -> None:
                for i, total in enumerate(totals):
                    index = (first_sum + i, self._within(stripe))
                    own = jnp.sum(total, axis=0)
                    if slab.warpgroups > 1:
                        others = self._load(scratch["sums"].at[index])
                        own = own + jnp.where(self._warpgroup == 0, 0.0, others)
                    scratch["sums"][index] = own

            self._in_turn(add)

        self.for_each_stripe(sum_stripe)

    def total(self, index: int, stripe: Any) -> jax.Array:
        """A sum over this block's rows, `[stripe]`."""
        return self._load(self._scratch["sums"].at[index, self._within(stripe)])

    def pool(self, index: int, values_of: Callable[[Any], jax.Array]) -> None:
        """Averages `values_of(stripe)` over each group; found under `pooled` for each channel."""
        slab, pools = self.slab, self._scratch["pools"]
        if slab.group_size == 1:

            def keep(stripe: Any) -> None:
                pools[index, self._warpgroup, self._within(stripe)] = values_of(stripe)

            self.for_each_stripe(keep)
            return
        shape = (slab.pool_rows, slab.stripe)
        row, column = (
            plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=self._layout) for axis in (0, 1)
        )
        group = lax.div(row, jnp.int32(slab.group_size))

        def add(stripe: Any, members: jax.Array) -> jax.Array:
            channel = column + stripe * slab.stripe
            same = group == lax.div(channel, jnp.int32(slab.group_size))
            return members + jnp.where(same, self._widen(values_of(stripe), slab.pool_rows), 0.0)

        zero = plgpu.layout_cast(jnp.zeros(shape, jnp.float32), self._layout)
        members = self.for_each_stripe(add, zero)
        # Row sums, turned into columns by way of shared memory.
        pools[index, self._warpgroup] = jnp.sum(members, axis=1) * (1 / slab.group_size)

    def pooled(self, index: int, stripe: Any) -> jax.Array:
        """What `pool` put under `index`, `[stripe]`."""
        return self._load(self._scratch["pools"].at[index, self._warpgroup, self._within(stripe)])

    def exchange(self, values_of: Callable[[Any], Vectors]) -> Parts:
        """Makes `values_of(stripe)` of each block of the cluster known to all of them."""
        if self.slab.parts == 1:
            rows = self.slab.rows
            return lambda stripe, term: term(rows, *values_of(stripe))
        scratch = self._scratch
        (partials,) = self._partials
        count = self._stage(values_of)
        all_parts = partials.at[self._sample, self._index]

        def send_and_receive() -> None:
            plgpu.copy_smem_to_gmem(scratch["staged"], all_parts.at[self._part])
            # Written, not only read: the barrier then says that all blocks' values are there.
            plgpu.wait_smem_to_gmem(0)
            plgpu.barrier_arrive(scratch["all_staged"])
            plgpu.barrier_wait(scratch["all_staged"])
            plgpu.copy_gmem_to_smem(all_parts, scratch["gathered"], scratch["all_gathered"])

        self._on_first_warpgroup(send_and_receive)
        plgpu.barrier_wait(scratch["all_gathered"])

        def sum_parts(stripe: Any, term: Callable[..., Vectors]) -> Vectors:
            def term_of(part: Any) -> Vectors:
                gathered = (
                    self._load(scratch["gathered"].at[part, i, self._within(stripe)])
                    for i in range(count)
                )
                return term(self._rows_in(part), *gathered)

            def add(part: Any, totals: Vectors) -> Vectors:
                return tuple(map(jnp.add, totals, term_of(part)))

            # A loop, or all parts' values are in registers at once.
            return lax.fori_loop(1, self.slab.parts, add, term_of(0))

        return sum_parts

    def rows(self) -> Any:
        """Rows of the tensor in this block."""
        return self._rows_in(self._part)

    def _rows_in(self, part: Any) -> Any:
        slab = self.slab
        if slab.parts == 1:
            return slab.rows
        full, last = jnp.float32(slab.part_rows), jnp.float32(slab.last_part_rows)
        return jnp.where(part == slab.parts - 1, last, full)

    # Copies out.

    def store_results(self, values_of: Callable[[Any], Vectors]) -> None:
        """Copies per-channel vectors out, once for all warpgroups and blocks of the cluster."""
        staged = self._scratch["staged"]
        count = self._stage(values_of)

        def store() -> None:
            for i in range(count):
                target = self._results.at[i, self._sample, self._channels()]
                plgpu.copy_smem_to_gmem(staged.at[i], target)

        def store_once() -> None:
            if self.slab.parts == 1:
                store()
            else:
                pl.when(self._part == 0)(store)

        self._on_first_warpgroup(store_once)

    def write(self, function_of: Callable[[Any], Callable[..., jax.Array]]) -> None:
        """Puts `function(*values)` over the last slab, tile by tile, and copies it out."""
        shared = self._scratch["slabs"][-1]

        def write_stripe(stripe: Any) -> None:
            function = function_of(stripe)

            def step(tile: Any) -> None:
                values = self._values(stripe, tile)
                shared[stripe, tile] = function(*values).astype(shared.dtype)
                plgpu.commit_smem()
                target = self._output.at[self._sample, self._rows(tile), self._channels(stripe)]
                plgpu.copy_smem_to_gmem(shared.at[stripe, tile], target)

            self._for_each_tile(lambda tile, _: step(tile))

        self.for_each_stripe(write_stripe)

    # Pieces of the above.

    def widen(self, columns: jax.Array) -> jax.Array:
        """`[stripe]` for every row of a tile; takes no registers."""
        return self._widen(columns, self.slab.tile_rows)

    def mask(self, tile: Any, values: jax.Array) -> jax.Array:
        """Zero in the rows past H*W."""
        slab = self.slab
        if slab.parts * slab.part_rows == slab.rows:
            return values
        rows = plgpu.broadcasted_iota(jnp.int32, values.shape, 0, layout=self._layout)
        return jnp.where(rows + self._first_row(tile) < slab.rows, values, 0.0)

    def for_each_stripe(self, step: Callable[..., Any], *carry: Any) -> Any:
        """`step(stripe)`, or `step(stripe, carry)`, which gives the next carry."""
        if self.slab.stripes == 1:
            return step(0, *carry)
        if carry:
            return lax.fori_loop(0, self.slab.stripes, step, *carry)
        return lax.fori_loop(0, self.slab.stripes, lambda stripe, _: step(stripe), None)

    def _for_each_tile(self, step: Callable[..., Any], carry: Any = None) -> Any:
        tiles, groups = self.slab.tiles, self.slab.warpgroups
        turns = tiles if groups == 1 else lax.div(tiles - self._warpgroup + groups - 1, groups)
        return lax.fori_loop(0, turns, lambda i, c: step(i * groups + self._warpgroup, c), carry)

    def _in_turn(self, action: Callable[[], None]) -> None:
        """Runs `action` in one warpgroup after the other, and all wait for the last.

        Sums across warps share one scratch space, and Mosaic keeps only the threads of one
        warpgroup from overwriting it.
        """
        if self.slab.warpgroups == 1:
            action()
            return

        def turn(warpgroup: Any, _: None) -> None:
            pl.when(self._warpgroup == warpgroup)(action)
            self._join()

        lax.fori_loop(0, self.slab.warpgroups, turn, None)

    def _join(self) -> None:
        """Waits for the other warpgroups, and sees what they wrote."""
        if self.slab.warpgroups > 1:
            plgpu.barrier_arrive(self._scratch["joined"])
            plgpu.barrier_wait(self._scratch["joined"])

    def _on_first_warpgroup(self, action: Callable[[], None]) -> None:
        if self.slab.warpgroups == 1:
            action()
        else:
            pl.when(self._warpgroup == 0)(action)

    def _stage(self, values_of: Callable[[Any], Vectors]) -> int:
        """Puts `values_of(stripe)` where the first warpgroup can copy it out; their number."""
        count = 0

        def stage(stripe: Any) -> None:
            nonlocal count
            values = values_of(stripe)
            count = len(values)
            for i, value in enumerate(values):
                self._scratch["staged"][i, self._within(stripe)] = value

        def stage_all() -> None:
            self.for_each_stripe(stage)
            plgpu.commit_smem()

        self._on_first_warpgroup(stage_all)
        return count

    def _widen(self, columns: jax.Array, rows: int) -> jax.Array:
        wide = lax.broadcast_in_dim(columns, (rows, self.slab.stripe), (1,))
        return plgpu.layout_cast(wide, self._layout)

    def _values(self, stripe: Any, tile: Any) -> list[jax.Array]:
        return [
            _load(shared.at[stripe, tile], self._layout).astype(jnp.float32)
            for shared in self._scratch["slabs"]
        ]

    def _first_row(self, tile: Any) -> Any:
        return self._part * self.slab.part_rows + tile * self.slab.tile_rows

    def _rows(self, tile: Any) -> Any:
        return pl.ds(self._first_row(tile), self.slab.tile_rows)

    def _channels(self, stripe: Any = None) -> Any:
        """Of the block in the tensor, or of one stripe."""
        first = self._index * self.slab.channels
        if stripe is None:
            return pl.ds(first, self.slab.channels)
        return pl.ds(first + stripe * self.slab.stripe, self.slab.stripe)

    def _within(self, stripe: Any) -> Any:
        """The stripe's channels within the block."""
        return pl.ds(stripe * self.slab.stripe, self.slab.stripe)

    def _load(self, ref: Any) -> jax.Array:
        return _load(ref, self._columns_layout)


_ref_load: Any = plgpu.load
_index = inspect.signature(_ref_load).parameters.get("idx")
if _index is not None and _index.default is inspect.Parameter.empty:  # before JAX 0.11
    _ref_load = functools.partial(_ref_load, idx=())


def _load(ref: Any, layout: Any) -> jax.Array:
    # Not "optimized": that demands whole cache lines, which a block's few channels are not.
    return _ref_load(ref, layout=layout, optimized=False)
