"""EvoNorm-S0 for Hopper GPUs (H100, H200) in Pallas Mosaic GPU: one launch each way.

A thread block owns a slab: one sample, a block of neighbouring channels, all H*W rows. The copy
engine (TMA) brings the slab into shared memory once, the statistics are taken there by the
two-pass formula, and the result is written over the slab and copied out. So x and y pass through
memory once forward, and x, dy and dx once backward. These are 5 passes, and XLA needs 9 for the
same layer. Where one block would have to take narrow rows, a cluster of blocks shares a slab, cut
along its rows. The gradient of a shortcut can be added to dx on its way out, for one more pass.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu

from evonorm_jax.errors import UserError
from evonorm_jax.kernels.mosaic_gpu_block import Block, Vectors
from evonorm_jax.kernels.mosaic_gpu_slab import REDUCTION_BYTES, Slab, plan

_LOG2_E = 1 / math.log(2)


def supports(shape: tuple[int, ...], dtype: Any, num_groups: int) -> str | None:
    """Returns None if both passes can take x `[N, H, W, C]`, and the reason in words otherwise."""
    for tensors in (1, 2):
        slab = plan(shape, dtype, num_groups, tensors)
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
    parts: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes y and the statistics for `backward`.

    `parts` thread blocks share a slab; None leaves the number to `mosaic_gpu_slab.plan`.

    Returns:
      y of x's shape and dtype; and, for each channel, its group's mean and 1 / standard deviation,
      `[2, N, C]` in float32.

    Raises:
      UserError: The shape or dtype does not fit (`supports`), or this JAX has no interpreter.
    """
    n, height, width, channels = x.shape
    slab = _checked_plan(x, num_groups, 1, parts)
    tensors = (x.reshape(n, height * width, channels),)
    body = functools.partial(_forward_body, epsilon=epsilon)
    columns = _float32(v, scale, bias)
    y, statistics = _launch("evonorm_s0_forward", body, slab, tensors, columns, interpret)
    return y.reshape(x.shape), statistics


def backward(
    x: jax.Array,
    dy: jax.Array,
    v: jax.Array,
    scale: jax.Array,
    statistics: jax.Array,
    num_groups: int,
    interpret: bool = False,
    parts: int | None = None,
    addend: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Computes dx and the sums for the parameters' gradients.

    `statistics` are those of `forward`. `addend` has x's shape and dtype; it is added to dx.

    Returns:
      dx of x's shape and dtype, rounded before and after the addition; and, for each sample and
      channel, the sums A, B and D over H and W, `[3, N, C]` in float32. With h = x sigmoid(v x)
      they are A = sum dy h, B = sum dy and D = sum dy h (x - h).

    Raises:
      UserError: The shape or dtype does not fit (`supports`), or this JAX has no interpreter.
    """
    n, height, width, channels = x.shape
    slab = _checked_plan(x, num_groups, 2, parts)
    operands = (x, dy) if addend is None else (x, dy, addend)
    tensors = tuple(tensor.reshape(n, height * width, channels) for tensor in operands)
    columns = (*_float32(v, scale), statistics)
    dx, sums = _launch("evonorm_s0_backward", _backward_body, slab, tensors, columns, interpret)
    return dx.reshape(x.shape), sums


def _checked_plan(x: jax.Array, num_groups: int, tensors: int, parts: int | None) -> Slab:
    slab = plan(x.shape, x.dtype, num_groups, tensors, parts)
    if isinstance(slab, str):
        raise UserError(f"{slab}: use implementation='xla'")
    return slab


def _float32(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(array.astype(jnp.float32) for array in arrays)


def _launch(
    name: str,
    body: Callable[[Block], None],
    slab: Slab,
    tensors: tuple[jax.Array, ...],
    columns: tuple[jax.Array, ...],
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """Runs `body` in the thread blocks of one launch.

    `tensors` are those of `Block`. `columns` are per-channel operands, `[C]` or several in
    `[K, N, C]`.

    Returns:
      A tensor like those in `tensors`, and vectors `[slab.vectors, N, C]` in float32.
    """
    x = tensors[0]
    n, _, channels = x.shape
    blocks, groups, vectors = channels // slab.channels, slab.warpgroups, slab.vectors
    out_type = [
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.ShapeDtypeStruct((vectors, n, channels), jnp.float32),
    ]
    slabs = plgpu.SMEM((slab.part_rows, slab.channels), x.dtype)
    scratch: dict[str, Any] = {
        "slabs": (slabs,) * slab.tensors,
        "loaded": (plgpu.Barrier(num_barriers=slab.copies),) * slab.tensors,
        "columns": plgpu.SMEM((slab.columns, slab.channels), jnp.float32),
        "sums": plgpu.SMEM((vectors, slab.channels), jnp.float32),
        "joined": plgpu.Barrier(num_arrivals=groups),
        "pools": plgpu.SMEM((groups, slab.pool_rows), jnp.float32),
        "staged": plgpu.SMEM((slab.exchanged, slab.channels), jnp.float32),
    }
    mesh: dict[str, Any] = {"grid": (n, blocks), "grid_names": ("sample", "block")}
    if groups > 1:
        mesh |= {"num_threads": groups, "thread_name": "warpgroup"}
    if slab.parts > 1:
        mesh |= {"cluster": (slab.parts,), "cluster_names": ("part",)}
        # By way of device memory, in practice its cache: 2 to 3 KB for a slab.
        shape = (slab.parts, slab.exchanged, slab.channels)
        out_type.append(jax.ShapeDtypeStruct((n, blocks, *shape), jnp.float32))
        scratch |= {
            "gathered": plgpu.SMEM(shape, jnp.float32),
            "all_gathered": plgpu.Barrier(),
            "all_staged": plgpu.ClusterBarrier(collective_axes=("part",)),
        }

    def program(*refs: Any, **scratch: Any) -> None:
        inputs, outputs = refs[: -len(out_type)], refs[-len(out_type) :]
        block = Block(slab, inputs[: len(tensors)], outputs, scratch)
        block.fetch(inputs[len(tensors) :])
        body(block)
        # The copies out read shared memory, which the next block takes over.
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    program.__name__ = name  # in profiles
    kernel = plgpu.kernel(
        program,
        out_type=tuple(out_type),
        scratch_types=scratch,
        # exp2 and rsqrt by the hardware's approximations, good to about 2^-22.
        compiler_params=plgpu.CompilerParams(
            approx_math=True,
            reduction_scratch_bytes=REDUCTION_BYTES,
            # The other semantics infer tiles of 8 rows, which H*W must then be a multiple of.
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        **mesh,
    )
    with _interpreter() if interpret else contextlib.nullcontext():
        result = kernel(*tensors, *columns)
    return result[0], result[1]


def _interpreter() -> Any:
    # By name: the type checker may run on a JAX that has none.
    interpret = getattr(plgpu, "force_gpu_interpret_mode", None)
    if interpret is None:
        raise UserError(
            f"JAX {jax.__version__} cannot interpret Mosaic GPU kernels: install JAX 0.11 or newer"
        )
    return interpret(plgpu.InterpretGPUParams(detect_races=True))  # type: ignore[attr-defined, unused-ignore]


def _forward_body(block: Block, *, epsilon: float) -> None:
    v, scale, bias = range(3)  # columns
    rows = block.slab.rows
    block.sums(range(1), lambda _, x: (x,), first=True)
    own_mean = block.pool(block.total(0) * (1 / block.rows()))
    wide_mean = block.widen(own_mean)

    def squared_deviation(tile: Any, x: jax.Array) -> Vectors:
        deviation = block.mask(tile, x - wide_mean)
        return (deviation * deviation,)

    block.sums(range(1, 2), squared_deviation, first=False)
    # Of each part: its mean, and its squared deviations from that.
    sum_parts = block.exchange((own_mean, block.total(1)))
    (mean,) = sum_parts(lambda count, mean, _: (mean * (count * (1 / rows)),))

    def squared_deviations(count: Any, part_mean: jax.Array, squares: jax.Array) -> Vectors:
        shift = part_mean - mean
        return ((squares + count * (shift * shift)) * (1 / rows),)

    rstd = lax.rsqrt(block.pool(*sum_parts(squared_deviations)) + epsilon)
    block.store_results((mean, rstd))
    steepness, factor, offset = (
        block.widen(vector)
        for vector in (
            block.column(v) * -_LOG2_E,
            block.column(scale) * rstd,
            block.column(bias),
        )
    )
    block.write(lambda x: x * _sigmoid(steepness * x) * factor + offset)


def _backward_body(block: Block) -> None:
    v, scale, mean, rstd = range(4)  # columns
    steepness = block.widen(block.column(v) * -_LOG2_E)

    def products(_: Any, x: jax.Array, dy: jax.Array) -> Vectors:
        gated = x * _sigmoid(steepness * x)
        product = dy * gated
        return product, dy, product * (x - gated)

    block.sums(range(3), products, first=True)
    sum_parts = block.exchange(tuple(block.total(i) for i in range(3)))
    sums = sum_parts(lambda _, *sums: sums)
    block.store_results(sums)
    pooled = block.pool(sums[0] * block.column(scale) * (1 / block.slab.rows))
    inverse = block.column(rstd)
    factor, slope, centre = (
        block.widen(vector)
        for vector in (
            inverse * block.column(scale),
            inverse * inverse * inverse * pooled,
            block.column(mean),
        )
    )

    def input_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
        exponent = steepness * x
        gate = _sigmoid(exponent)
        derivative = gate * (1 - exponent * (1 / _LOG2_E) * (1 - gate))
        return factor * dy * derivative - slope * (x - centre)

    block.write(input_gradient)


def _sigmoid(exponent: jax.Array) -> jax.Array:
    """Computes 1 / (1 + 2**exponent), which is sigmoid(v x) for exponent = -v x / log 2."""
    # A division takes about 8 instructions; the square of the hardware's reciprocal root takes 2,
    # and is 0 where the exponential overflows.
    root = lax.rsqrt(1 + jnp.exp2(exponent))
    return root * root
