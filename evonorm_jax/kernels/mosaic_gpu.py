"""EvoNorm-S0 for Hopper GPUs (H100, H200) in Pallas Mosaic GPU: one launch each way.

A thread block owns a slab: one sample, a block of neighbouring channels, all H*W rows. The copy
engine (TMA) brings the slab into shared memory once, the statistics are taken there by the
two-pass formula, and the result is written over the slab and copied out. So memory sees x and y
forward, x, dy and dx backward: 5 passes, where XLA needs 8 for the same layer.

Rows past H*W: the copy engine fills them with zeros and drops them on the way back, so any H x W
works. Only the squared deviations have to leave them out.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from evonorm_jax.errors import UserError
from evonorm_jax.kernels.mosaic_gpu_slab import REDUCTION_BYTES, Slab, plan


def supports(shape: tuple[int, ...], dtype: Any, num_groups: int) -> str | None:
    """None when forward and backward can take x `[N, H, W, C]`, else the reason, a sentence."""
    for slabs in (1, 2):
        slab = plan(shape, dtype, num_groups, slabs)
        if isinstance(slab, str):
            return slab
    return None


def forward(
    x: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    num_groups: int,
    epsilon: float,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """y, and the mean and 1 / standard deviation of each group, `[N, G]` in float32.

    Raises:
      UserError: the shape or dtype does not fit (`supports`), or no interpreter in this JAX.
    """
    n, height, width, channels = x.shape
    slab = _checked_plan(x, num_groups, 1)
    operands = (x.reshape(n, height * width, channels), *_float32(v, scale, bias))
    body = functools.partial(_forward_body, epsilon=epsilon)
    y, statistics = _launch("evonorm_s0_forward", body, slab, operands, 1, 2, interpret)
    mean, rstd = statistics[:, :, :: slab.group_size]
    return y.reshape(x.shape), mean, rstd


def backward(
    x: jax.Array,
    dy: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    mean: jax.Array,
    rstd: jax.Array,
    num_groups: int,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """dx, and per sample and channel the sums A, B, D over H and W, `[N, C]` in float32.

    With h = x sigmoid(v x): A = sum dy h, B = sum dy, D = sum dy h (x - h).

    Raises:
      UserError: as in `forward`.
    """
    n, height, width, channels = x.shape
    slab = _checked_plan(x, num_groups, 2)
    rows = (n, height * width, channels)
    groups = (jnp.repeat(value, slab.group_size, axis=1) for value in _float32(mean, rstd))
    operands = (x.reshape(rows), dy.reshape(rows), *_float32(v, scale), *groups)
    name = "evonorm_s0_backward"
    dx, sums = _launch(name, _backward_body, slab, operands, 2, 3, interpret)
    return dx.reshape(x.shape), sums[0], sums[1], sums[2]


def _checked_plan(x: jax.Array, num_groups: int, slabs: int) -> Slab:
    slab = plan(x.shape, x.dtype, num_groups, slabs)
    if isinstance(slab, str):
        raise UserError(f"{slab}: use implementation='xla'")
    return slab


def _float32(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(array.astype(jnp.float32) for array in arrays)


def _launch(
    name: str,
    body: Callable[..., None],
    slab: Slab,
    operands: tuple[jax.Array, ...],
    slabs: int,
    results: int,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """Runs `body`: a tensor like the first of `operands`, and sums `[results, N, C]`.

    The first `slabs` operands are tensors.
    """
    x = operands[0]
    n, _, channels = x.shape
    groups = slab.warpgroups
    tiles = plgpu.SMEM((slab.tiles, slab.tile_rows, slab.channels), x.dtype)
    threads: dict[str, Any] = (
        {"num_threads": groups, "thread_name": "warpgroup"} if groups > 1 else {}
    )
    program = functools.partial(_run, body, slab, slabs)
    program.__name__ = name  # type: ignore[attr-defined]  # in profiles
    kernel = plgpu.kernel(
        program,
        out_type=(
            jax.ShapeDtypeStruct(x.shape, x.dtype),
            jax.ShapeDtypeStruct((results, n, channels), jnp.float32),
        ),
        scratch_types={
            "slabs": (tiles,) * slabs,
            "loaded": (plgpu.Barrier(num_barriers=slab.tiles),) * slabs,
            # Forward two sums one after the other, backward three at once.
            "exchange": plgpu.SMEM((3, groups, slab.channels), jnp.float32),
            "turns": plgpu.Barrier(num_arrivals=groups, num_barriers=2 * groups),
            "pool": plgpu.SMEM((groups, slab.pool_rows), jnp.float32),
            "results": plgpu.SMEM((results, slab.channels), jnp.float32),
        },
        grid=(n, channels // slab.channels),
        grid_names=("sample", "block"),
        # exp and rsqrt by the hardware's approximations, good to about 2^-22.
        compiler_params=plgpu.CompilerParams(
            approx_math=True,
            reduction_scratch_bytes=REDUCTION_BYTES,
            # The other semantics infer tiles of 8 rows, which H*W must then be a multiple of.
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        **threads,
    )
    with _interpreter() if interpret else contextlib.nullcontext():
        return kernel(*operands)


def _interpreter() -> Any:
    # By name: the type checker may run on a JAX that has none.
    interpret = getattr(plgpu, "force_gpu_interpret_mode", None)
    if interpret is None:
        raise UserError(
            f"JAX {jax.__version__} cannot interpret Mosaic GPU kernels: install JAX 0.11 or newer"
        )
    return interpret(plgpu.InterpretGPUParams(detect_races=True))  # type: ignore[attr-defined, unused-ignore]


def _run(body: Callable[..., None], slab: Slab, count: int, *refs: Any, **scratch: Any) -> None:
    *inputs, output, results = refs
    block = _Block(slab, inputs[:count], output, results, scratch)
    block.fetch()
    body(block, *(block.columns(ref) for ref in inputs[count:]))
    # The copies out read shared memory, which the next block takes over.
    plgpu.wait_smem_to_gmem(0, wait_read_only=True)


def _forward_body(
    block: "_Block", v: jax.Array, scale: jax.Array, bias: jax.Array, *, epsilon: float
) -> None:
    (total,) = block.sums(lambda _, x: (x,), first=True)
    mean = block.group_mean(total)

    def squared_deviation(tile: Any, x: jax.Array) -> tuple[jax.Array]:
        deviation = block.mask(tile, x - block.widen(mean))
        return (deviation * deviation,)

    (squares,) = block.sums(squared_deviation, first=False)
    rstd = lax.rsqrt(block.group_mean(squares) + epsilon)
    block.store_results(mean, rstd)
    v, scale, bias = (block.widen(value) for value in (v, scale * rstd, bias))
    block.write(lambda x: x * _sigmoid(v * x) * scale + bias)


def _backward_body(
    block: "_Block", v: jax.Array, scale: jax.Array, mean: jax.Array, rstd: jax.Array
) -> None:
    wide_v = block.widen(v)

    def terms(_: Any, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        gated = x * _sigmoid(wide_v * x)
        product = dy * gated
        return product, dy, product * (x - gated)

    sums = block.sums(terms, first=True)
    block.store_results(*sums)
    slope = rstd * rstd * rstd * block.group_mean(sums[0] * scale)
    factor, slope, mean = (block.widen(value) for value in (rstd * scale, slope, mean))

    def input_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
        gate_input = wide_v * x
        gate = _sigmoid(gate_input)
        return factor * dy * (gate * (1 + gate_input * (1 - gate))) - slope * (x - mean)

    block.write(input_gradient)


def _sigmoid(x: jax.Array) -> jax.Array:
    # A division takes about 8 instructions; the square of the hardware's reciprocal root takes 2,
    # and is 0 where the exponential overflows.
    root = lax.rsqrt(1 + jnp.exp(-x))
    return root * root


class _Block:
    """The program of one thread block, seen from one of its warpgroups."""

    def __init__(
        self, slab: Slab, inputs: list[Any], output: Any, results: Any, scratch: dict[str, Any]
    ) -> None:
        self.slab = slab
        self._inputs, self._output, self._results = inputs, output, results
        self._scratch = scratch
        self._layout = slab.layout()
        self._warpgroup = lax.axis_index("warpgroup") if slab.warpgroups > 1 else 0
        self._sample = lax.axis_index("sample")
        self._channels = pl.ds(lax.axis_index("block") * slab.channels, slab.channels)
        self._turns = self._slots = 0

    def fetch(self) -> None:
        """Starts the copies of this warpgroup's tiles."""

        def copy(tile: Any) -> None:
            for ref, shared, loaded in zip(
                self._inputs, self._scratch["slabs"], self._scratch["loaded"], strict=True
            ):
                source = ref.at[self._sample, self._rows(tile), self._channels]
                plgpu.copy_gmem_to_smem(source, shared.at[tile], loaded.at[tile])

        self._for_each_tile(lambda tile, _: copy(tile))

    def columns(self, ref: Any) -> jax.Array:
        """This block's channels of a `[C]` or `[N, C]` operand."""
        index = (self._channels,) if len(ref.shape) == 1 else (self._sample, self._channels)
        return _load(ref.at[index], self._layout.reduce(0))

    def widen(self, columns: jax.Array) -> jax.Array:
        """`[channels]` for every row of a tile; takes no registers."""
        return self._widen(columns, self.slab.tile_rows)

    def _widen(self, columns: jax.Array, rows: int) -> jax.Array:
        wide = lax.broadcast_in_dim(columns, (rows, self.slab.channels), (1,))
        return plgpu.layout_cast(wide, self._layout)

    def mask(self, tile: Any, values: jax.Array) -> jax.Array:
        """Zero in the rows past H*W."""
        slab = self.slab
        if slab.tiles * slab.tile_rows == slab.rows:
            return values
        rows = plgpu.broadcasted_iota(jnp.int32, values.shape, 0, layout=self._layout)
        return jnp.where(rows + tile * slab.tile_rows < slab.rows, values, 0.0)

    def sums(self, terms: Callable[..., tuple[jax.Array, ...]], first: bool) -> list[jax.Array]:
        """Sums over the slab's rows of each of `terms(tile, *values)`, `[channels]`.

        `first` says that the tiles may still be on their way.
        """
        shape = (self.slab.tile_rows, self.slab.channels)
        zero = plgpu.layout_cast(jnp.zeros(shape, jnp.float32), self._layout)
        count = len(jax.eval_shape(terms, 0, *(zero for _ in self._inputs)))

        def step(tile: Any, totals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            if first:
                for loaded in self._scratch["loaded"]:
                    plgpu.barrier_wait(loaded.at[tile])
            values = terms(tile, *self._values(tile))
            return tuple(total + value for total, value in zip(totals, values, strict=True))

        totals = self._for_each_tile(step, (zero,) * count)
        return self._across_warpgroups(totals)

    def group_mean(self, sums: jax.Array) -> jax.Array:
        """Sums over H and W `[channels]` to each channel's mean over its group."""
        slab, pool = self.slab, self._scratch["pool"]
        means = sums * (1 / slab.rows)
        if slab.group_size == 1:
            return means
        shape = (slab.pool_rows, slab.channels)
        row, column = (
            lax.div(
                plgpu.broadcasted_iota(jnp.int32, shape, axis, layout=self._layout),
                jnp.int32(slab.group_size),
            )
            for axis in (0, 1)
        )
        members = jnp.where(row == column, self._widen(means, slab.pool_rows), 0.0)
        # Row sums, turned into columns by way of shared memory.
        pool[self._warpgroup] = jnp.sum(members, axis=1) * (1 / slab.group_size)
        return _load(pool.at[self._warpgroup, pl.ds(0, slab.channels)], self._layout.reduce(0))

    def store_results(self, *values: jax.Array) -> None:
        """Copies `[channels]` vectors out, once for all warpgroups."""
        shared = self._scratch["results"]

        def store() -> None:
            for i, value in enumerate(values):
                shared[i] = value
            plgpu.commit_smem()
            for i in range(len(values)):
                plgpu.copy_smem_to_gmem(
                    shared.at[i], self._results.at[i, self._sample, self._channels]
                )

        self._on_warpgroup(0, store)

    def write(self, function: Callable[..., jax.Array]) -> None:
        """Puts `function(*values)` over the last slab, tile by tile, and copies it out."""
        shared = self._scratch["slabs"][-1]

        def step(tile: Any) -> None:
            shared[tile] = function(*self._values(tile)).astype(shared.dtype)
            plgpu.commit_smem()
            target = self._output.at[self._sample, self._rows(tile), self._channels]
            plgpu.copy_smem_to_gmem(shared.at[tile], target)

        self._for_each_tile(lambda tile, _: step(tile))

    def _values(self, tile: Any) -> list[jax.Array]:
        return [
            _load(shared.at[tile], self._layout).astype(jnp.float32)
            for shared in self._scratch["slabs"]
        ]

    def _rows(self, tile: Any) -> Any:
        return pl.ds(tile * self.slab.tile_rows, self.slab.tile_rows)

    def _for_each_tile(self, step: Callable[..., Any], carry: Any = None) -> Any:
        groups = self.slab.warpgroups
        return lax.fori_loop(
            0, self.slab.tiles // groups, lambda i, c: step(i * groups + self._warpgroup, c), carry
        )

    def _on_warpgroup(self, index: int, action: Callable[[], None]) -> None:
        if self.slab.warpgroups == 1:
            action()
        else:
            pl.when(self._warpgroup == index)(action)

    def _across_warpgroups(self, totals: tuple[jax.Array, ...]) -> list[jax.Array]:
        groups = self.slab.warpgroups
        if groups == 1:
            return [jnp.sum(total, axis=0) for total in totals]
        exchange, turns = self._scratch["exchange"], self._scratch["turns"]
        slot, self._slots = self._slots, self._slots + len(totals)

        # In turn: sums across warps share one scratch space, and Mosaic keeps only the threads of
        # one warpgroup from overwriting it.
        for turn in range(groups):

            def reduce(turn: int = turn) -> None:
                for i, total in enumerate(totals):
                    exchange[slot + i, turn] = jnp.sum(total, axis=0)

            self._on_warpgroup(turn, reduce)
            barrier = turns.at[self._turns]
            self._turns += 1
            plgpu.barrier_arrive(barrier)
            plgpu.barrier_wait(barrier)

        def combined(i: int) -> jax.Array:
            parts = (_load(exchange.at[slot + i, g], columns) for g in range(groups))
            return functools.reduce(jnp.add, parts)

        columns = self._layout.reduce(0)
        return [combined(i) for i in range(len(totals))]


_ref_load: Any = plgpu.load
_index = inspect.signature(_ref_load).parameters.get("idx")
if _index is not None and _index.default is inspect.Parameter.empty:  # before JAX 0.11
    _ref_load = functools.partial(_ref_load, idx=())


def _load(ref: Any, layout: Any) -> jax.Array:
    # Not "optimized": that demands whole cache lines, which a block's few channels are not.
    return _ref_load(ref, layout=layout, optimized=False)
