"""The operations of one thread block of the GPU kernels on its slab."""

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
#: `term` to the sums of `term(rows, *vectors)` over the blocks of a cluster.
Parts = Callable[[Callable[..., Vectors]], Vectors]


class Block:
    """The program of one thread block, seen from one of its warpgroups.

    A vector has one value for each of the block's channels. The first of the `tensors` fill the
    slabs; one more, if there is one, is added to what `write` writes.
    """

    def __init__(
        self, slab: Slab, tensors: Sequence[Any], outputs: Sequence[Any], scratch: dict[str, Any]
    ) -> None:
        self.slab = slab
        self._tensors, self._addends = tensors[: slab.tensors], tensors[slab.tensors :]
        self._output, self._results, *self._partials = outputs
        self._scratch = scratch
        self._layout = slab.layout()
        self._vector_layout = self._layout.reduce(0)
        self._warpgroup = lax.axis_index("warpgroup") if slab.warpgroups > 1 else 0
        self._part = lax.axis_index("part") if slab.parts > 1 else 0
        self._sample = lax.axis_index("sample")
        self._channels = pl.ds(lax.axis_index("block") * slab.channels, slab.channels)
        self._index = lax.axis_index("block")

    # Copies in.

    def fetch(self, columns: Sequence[Any]) -> None:
        """Starts the copies of this warpgroup's tiles, and copies the per-channel operands.

        The operands are `[C]`, or several in `[K, N, C]`.
        """

        def fetch_columns() -> None:
            sources = []
            for ref in columns:
                if len(ref.shape) == 1:
                    sources.append(ref.at[self._channels])
                else:
                    sources += [
                        ref.at[i, self._sample, self._channels] for i in range(ref.shape[0])
                    ]
            # All loads before the first store, which waits.
            for i, value in enumerate([self._load(source) for source in sources]):
                self._scratch["columns"][i] = value

        self._fetch_all(self._tensors)
        self._on_first_warpgroup(fetch_columns)
        self._join()

    def _fetch_all(self, tensors: Sequence[Any]) -> None:
        def fetch(index: Any, _: None) -> None:
            self._fetch_rows(tensors, index)

        # A loop even for one copy: of a slice by constants, Pallas demands that x has all rows.
        lax.fori_loop(0, self._turns(self.slab.copies), self._in_turns(fetch), None)

    def _fetch_rows(self, tensors: Sequence[Any], index: Any) -> None:
        """Starts copy number `index` of each tensor, into the slab of the same place."""
        rows = pl.ds(index * self.slab.copy_rows, self.slab.copy_rows)
        for i, ref in enumerate(tensors):
            shared, loaded = (self._scratch[name][i] for name in ("slabs", "loaded"))
            # The copy engine puts zeros for rows past H*W.
            plgpu.copy_gmem_to_smem(self._in_tensor(ref, rows), shared.at[rows], loaded.at[index])

    def column(self, operand: int) -> jax.Array:
        """Returns a per-channel operand as a vector."""
        return self._load(self._scratch["columns"].at[operand])

    # Sums, means, and what the blocks of a cluster tell each other.

    def sums(self, indices: range, terms: Callable[..., Vectors], *, first: bool) -> None:
        """Sums over the rows; `total` then returns the sums at `indices`.

        `terms(tile, *values)` returns the summands. `first` says that the tiles may still be on
        their way.
        """
        slab, scratch = self.slab, self._scratch
        zero = plgpu.layout_cast(
            jnp.zeros((slab.tile_rows, slab.channels), jnp.float32), self._layout
        )

        def step(tile: Any, totals: Vectors) -> Vectors:
            values = terms(tile, *self._values(tile))
            return tuple(total + value for total, value in zip(totals, values, strict=True))

        loaded = scratch["loaded"] if first else ()
        totals = self._for_each_tile(step, (zero,) * len(indices), loaded=loaded)

        def add() -> None:
            for i, total in zip(indices, totals, strict=True):
                own = jnp.sum(total, axis=0)
                if slab.warpgroups > 1:
                    own = own + jnp.where(self._warpgroup == 0, 0.0, self.total(i))
                scratch["sums"][i] = own

        self._in_turn(add)

    def total(self, index: int) -> jax.Array:
        """Returns a sum over this block's rows, a vector."""
        return self._load(self._scratch["sums"].at[index])

    def pool(self, values: jax.Array) -> jax.Array:
        """Gives each channel the mean of a vector over its group."""
        slab = self.slab
        if slab.group_size == 1:
            return values
        shape = (slab.pool_rows, slab.channels)
        row, column = (
            lax.div(
                plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=self._layout),
                jnp.int32(slab.group_size),
            )
            for axis in (0, 1)
        )
        members = jnp.where(row == column, self._widen(values, slab.pool_rows), 0.0)
        # Row sums, turned into columns by way of shared memory.
        pool = self._scratch["pools"].at[self._warpgroup]
        pool[...] = jnp.sum(members, axis=1) * (1 / slab.group_size)
        return self._load(pool.at[pl.ds(0, slab.channels)])

    def exchange(self, vectors: Vectors) -> Parts:
        """Gives the `vectors` of each block of the cluster to all of its blocks.

        Returns:
          A function that calls `term(rows, *vectors)` for each block and returns the sums.
        """
        if self.slab.parts == 1:
            rows = self.slab.rows
            return lambda term: term(rows, *vectors)
        scratch = self._scratch
        (partials,) = self._partials
        self._stage(vectors)
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

        def sum_parts(term: Callable[..., Vectors]) -> Vectors:
            def term_of(part: Any) -> Vectors:
                gathered = scratch["gathered"]
                values = (self._load(gathered.at[part, i]) for i in range(len(vectors)))
                return term(self._rows_in(part), *values)

            def add(part: Any, totals: Vectors) -> Vectors:
                return tuple(map(lax.add, totals, term_of(part)))

            # A loop, or all parts' values are in registers at once.
            return lax.fori_loop(1, self.slab.parts, add, term_of(0))

        return sum_parts

    def rows(self) -> Any:
        """Returns the number of rows of the tensor in this block."""
        return self._rows_in(self._part)

    def _rows_in(self, part: Any) -> Any:
        slab = self.slab
        if slab.parts == 1:
            return slab.rows
        full, last = jnp.float32(slab.part_rows), jnp.float32(slab.last_part_rows)
        return jnp.where(part == slab.parts - 1, last, full)

    # Copies out.

    def store_results(self, vectors: Vectors) -> None:
        """Copies per-channel vectors out, once for all warpgroups and blocks of the cluster."""
        self._stage(vectors)

        def store() -> None:
            for i in range(len(vectors)):
                target = self._results.at[i, self._sample, self._channels]
                plgpu.copy_smem_to_gmem(self._scratch["staged"].at[i], target)

        def store_once() -> None:
            if self.slab.parts == 1:
                store()
            else:
                pl.when(self._part == 0)(store)

        self._on_first_warpgroup(store_once)

    def write(self, function: Callable[..., jax.Array]) -> None:
        """Puts `function(*values)` over the last slab, tile by tile, and copies it out.

        The addend, if there is one, is added to the rounded values. It takes no shared memory: a
        tile of it replaces one of the first slab, once the function has read that. So there must be
        two slabs.
        """
        if self._addends:
            self._overwrite(function, self._fetch_addend)
            loaded = self._scratch["loaded"][:1]
            self._overwrite(lambda addend, result: addend + result, self._copy_out, loaded)
        else:
            self._overwrite(function, self._copy_out)

    def _overwrite(
        self,
        function: Callable[..., jax.Array],
        copy: Callable[[Any], None],
        loaded: Sequence[Any] = (),
    ) -> None:
        """Puts `function(*values)` over the last slab and calls `copy(index)` for each copy.

        `loaded` are the barriers of tensors that may still be on their way.
        """
        slab, shared = self.slab, self._scratch["slabs"][-1]

        def step(tile: Any, _: None) -> None:
            rows = self._rows(tile)
            shared[rows] = function(*self._values(tile)).astype(shared.dtype)
            if not slab.small:
                # From here the copy engine sees the result, and all threads have read the tile.
                plgpu.commit_smem()
                copy(tile)

        self._for_each_tile(step, loaded=loaded)
        if slab.small:
            plgpu.commit_smem()
            copy(0)

    def _fetch_addend(self, index: Any) -> None:
        if self.slab.small:
            self._fetch_all(self._addends)
        else:
            self._fetch_rows(self._addends, index)

    def _copy_out(self, index: Any) -> None:
        slab, shared = self.slab, self._scratch["slabs"][-1]
        # Rows past H*W stay out where x has more channels; `plan` sees to the rest.
        rows = pl.ds(0, slab.rows) if slab.small else self._rows(index)
        plgpu.copy_smem_to_gmem(shared.at[rows], self._in_tensor(self._output, rows))

    # Pieces of the above.

    def widen(self, vector: jax.Array) -> jax.Array:
        """Repeats a vector for every row of a tile; this takes no registers."""
        return self._widen(vector, self.slab.tile_rows)

    def mask(self, tile: Any, values: jax.Array) -> jax.Array:
        """Sets `values` to zero in the rows past H*W."""
        if not self.slab.padded:
            return values
        rows = plgpu.broadcasted_iota(jnp.int32, values.shape, 0, layout=self._layout)
        first = self._first_row() + tile * self.slab.tile_rows
        return jnp.where(rows + first < self.slab.rows, values, 0.0)

    def _for_each_tile(
        self, step: Callable[..., Any], carry: Any = None, loaded: Sequence[Any] = ()
    ) -> Any:
        """Returns the last `carry = step(tile, carry)`; `loaded` are barriers to wait for first."""

        def wait(copy: Any) -> None:
            for barrier in loaded:
                plgpu.barrier_wait(barrier.at[copy])

        def wait_and_step(tile: Any, carry: Any) -> Any:
            if not self.slab.small:
                wait(tile)
            return step(tile, carry)

        if self.slab.small:
            wait(0)
        if self.slab.tiles == 1:
            return wait_and_step(0, carry)
        return lax.fori_loop(0, self._turns(self.slab.tiles), self._in_turns(wait_and_step), carry)

    def _turns(self, count: int) -> Any:
        """Returns how many of `count` tiles, or copies, are this warpgroup's."""
        groups = self.slab.warpgroups
        if groups == 1:
            return count
        return lax.div(count - self._warpgroup + groups - 1, groups)

    def _in_turns(self, step: Callable[..., Any]) -> Callable[..., Any]:
        groups = self.slab.warpgroups
        return lambda turn, carry: step(turn * groups + self._warpgroup, carry)

    def _in_turn(self, action: Callable[[], None]) -> None:
        """Runs `action` in one warpgroup after the other; all of them wait for the last.

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
        """Waits for the other warpgroups; afterwards this one sees the values that they wrote."""
        if self.slab.warpgroups > 1:
            plgpu.barrier_arrive(self._scratch["joined"])
            plgpu.barrier_wait(self._scratch["joined"])

    def _on_first_warpgroup(self, action: Callable[[], None]) -> None:
        if self.slab.warpgroups == 1:
            action()
        else:
            pl.when(self._warpgroup == 0)(action)

    def _stage(self, vectors: Vectors) -> None:
        """Puts vectors where the first warpgroup can copy them out."""

        def stage() -> None:
            for i, vector in enumerate(vectors):
                self._scratch["staged"][i] = vector
            plgpu.commit_smem()

        self._on_first_warpgroup(stage)

    def _widen(self, vector: jax.Array, rows: int) -> jax.Array:
        wide = lax.broadcast_in_dim(vector, (rows, self.slab.channels), (1,))
        return plgpu.layout_cast(wide, self._layout)

    def _values(self, tile: Any) -> list[jax.Array]:
        return [
            _load(shared.at[self._rows(tile)], self._layout).astype(jnp.float32)
            for shared in self._scratch["slabs"]
        ]

    def _first_row(self) -> Any:
        return self._part * self.slab.part_rows

    def _rows(self, tile: Any) -> Any:
        """Returns the rows of a tile in the slab."""
        return pl.ds(tile * self.slab.tile_rows, self.slab.tile_rows)

    def _in_tensor(self, ref: Any, rows: Any) -> Any:
        """Returns the reference to these rows of the slab in device memory."""
        return ref.at[
            self._sample, pl.ds(self._first_row() + rows.start, rows.size), self._channels
        ]

    def _load(self, ref: Any) -> jax.Array:
        return _load(ref, self._vector_layout)


_ref_load: Any = plgpu.load
_index = inspect.signature(_ref_load).parameters.get("idx")
if _index is not None and _index.default is inspect.Parameter.empty:  # before JAX 0.11
    _ref_load = functools.partial(_ref_load, idx=())


def _load(ref: Any, layout: Any) -> jax.Array:
    # Not "optimized": that demands whole cache lines, which a block's few channels are not.
    return _ref_load(ref, layout=layout, optimized=False)
