"""EvoNorm-S0 for TPU in Pallas: one launch each way.

A grid step owns a slab: 8 samples, a block of channels, all of H and W. The slab is copied to
vector memory (VMEM) while the one before is worked on, the statistics are taken there by the
two-pass formula, and the result goes back: memory sees x and y forward, x, dy and dx backward.

The kernels see `[H*W, N, C]`: samples and channels fill the register tiles, every H x W works
without a tail, and a sum over H and W adds whole tiles. It is also how XLA lays out the
convolutions around the layer (`{3,0,2,1}`), so the transpose is no copy; kernels over
`[N, H, W, C]` made the compiler insert one on the way in.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from evonorm_jax.errors import UserError

#: What the kernels read and write; arithmetic is float32.
DTYPES = ("float32", "bfloat16")

_LANES = 128  # columns of a register tile
_SUBLANES = 8  # rows of a register tile: the samples of a slab
_MAX_CHUNK = 16  # positions worked on at once: that many register tiles of each tensor

# Of the 128 MiB of a v5e or v6e core; 16 MiB are granted unless more is asked for.
_VMEM_BYTES = 100 * 2**20
_DEFAULT_VMEM_BYTES = 16 * 2**20
_SPARE_VMEM_BYTES = 4 * 2**20  # parameters, statistics, what the compiler spills


@dataclasses.dataclass(frozen=True)
class Slab:
    """The part of `[H*W, N, C]` that one grid step works on.

    Attributes:
      rows: H*W.
      samples: samples of the slab.
      channels: channels of the slab, whole groups.
      group_size: channels of a group.
      itemsize: bytes of a value.
    """

    rows: int
    samples: int
    channels: int
    group_size: int
    itemsize: int

    @property
    def chunk(self) -> int:
        """Positions worked on at once, a divisor of `rows`."""
        return max(k for k in range(1, _MAX_CHUNK + 1) if self.rows % k == 0)

    def buffers(self, tensors: int) -> int:
        """2, so that copies overlap with work, unless `tensors` slabs fit only once."""
        return 2 if self.vmem_bytes(tensors, 2) <= _VMEM_BYTES else 1

    def vmem_bytes(self, tensors: int, buffers: int) -> int:
        """Vector memory for `tensors` slabs, each held `buffers` times."""
        lanes = _round_up(self.channels, _LANES)
        slab = self.rows * _round_up(self.samples, _SUBLANES) * lanes * self.itemsize
        matrix = 4 * _round_up(self.channels, _SUBLANES) * lanes
        return buffers * tensors * slab + 2 * matrix + _SPARE_VMEM_BYTES


def plan(shape: tuple[int, ...], dtype: Any, num_groups: int) -> Slab | str:
    """The slab for x `[N, H, W, C]`, or why there is none.

    Its channels are the fewest whole register tiles that hold whole groups, or all channels.
    """
    n, height, width, channels = shape
    dtype = jnp.dtype(dtype)
    if dtype.name not in DTYPES:
        return f"x is {dtype.name}, and the TPU kernels take {' or '.join(DTYPES)}"
    group_size = channels // num_groups
    block = math.lcm(_LANES, group_size)
    block = channels if channels % block else block
    slab = Slab(height * width, min(n, _SUBLANES), block, group_size, dtype.itemsize)
    needed = slab.vmem_bytes(3, 1)  # x, dy and dx
    if needed > _VMEM_BYTES:
        return (
            f"the backward pass over {slab.samples} samples of {height} x {width} pixels by "
            f"{block} channels takes {needed} bytes of vector memory, and the TPU kernels may use "
            f"{_VMEM_BYTES}"
        )
    return slab


def supports(shape: tuple[int, ...], dtype: Any, num_groups: int) -> str | None:
    """None when forward and backward can take x `[N, H, W, C]`, else the reason, a sentence."""
    slab = plan(shape, dtype, num_groups)
    return slab if isinstance(slab, str) else None


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
      UserError: the shape or dtype does not fit (`supports`).
    """
    slab = _checked_plan(x, num_groups)
    kernel = functools.partial(_forward_kernel, slab=slab, epsilon=epsilon)
    name = "evonorm_s0_forward"
    y, mean, rstd = _launch(name, kernel, slab, (x,), (v, scale, bias), (), 2, interpret)
    return y, mean[:, :: slab.group_size], rstd[:, :: slab.group_size]


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
    slab = _checked_plan(x, num_groups)
    groups = tuple(jnp.repeat(value, slab.group_size, axis=1) for value in (mean, rstd))
    kernel = functools.partial(_backward_kernel, slab=slab)
    name = "evonorm_s0_backward"
    dx, a, b, d = _launch(name, kernel, slab, (x, dy), (v, scale), groups, 3, interpret)
    return dx, a, b, d


def _checked_plan(x: jax.Array, num_groups: int) -> Slab:
    slab = plan(x.shape, x.dtype, num_groups)
    if isinstance(slab, str):
        raise UserError(f"{slab}: use implementation='xla'")
    return slab


def _launch(
    name: str,
    kernel: Callable[..., None],
    slab: Slab,
    tensors: tuple[jax.Array, ...],
    parameters: tuple[jax.Array, ...],
    statistics: tuple[jax.Array, ...],
    results: int,
    interpret: bool,
) -> tuple[jax.Array, ...]:
    """Runs `kernel`: a tensor like the first, and `results` arrays `[N, C]`."""
    x = tensors[0]
    n, height, width, channels = x.shape
    buffers = slab.buffers(len(tensors) + 1)
    tensor = pl.BlockSpec(
        (slab.rows, slab.samples, slab.channels),
        lambda i, j: (0, i, j),
        pipeline_mode=pl.Buffered(buffers),
    )
    parameter = pl.BlockSpec((1, slab.channels), lambda _, j: (0, j))
    statistic = pl.BlockSpec((slab.samples, slab.channels), lambda i, j: (i, j))
    vmem = max(slab.vmem_bytes(len(tensors) + 1, buffers), _DEFAULT_VMEM_BYTES)
    transposed = [value.transpose(1, 2, 0, 3).reshape(-1, n, channels) for value in tensors]
    y, *sums = pl.pallas_call(
        kernel,
        # The last slab may reach past N: samples are independent, and what is computed for those
        # that do not exist is not written.
        grid=(pl.cdiv(n, slab.samples), channels // slab.channels),
        in_specs=[tensor] * len(tensors)
        + [parameter] * len(parameters)
        + [statistic] * len(statistics),
        out_specs=[tensor] + [statistic] * results,
        out_shape=[jax.ShapeDtypeStruct(transposed[0].shape, x.dtype)]
        + [jax.ShapeDtypeStruct((n, channels), jnp.float32)] * results,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel"), vmem_limit_bytes=vmem
        ),
        interpret=interpret,
        name=name,
    )(
        *transposed,
        *(value.astype(jnp.float32).reshape(1, channels) for value in parameters),
        *(value.astype(jnp.float32) for value in statistics),
    )
    return y.reshape(height, width, n, channels).transpose(2, 0, 1, 3), *sums


def _forward_kernel(
    x_ref: Any,
    v_ref: Any,
    scale_ref: Any,
    bias_ref: Any,
    y_ref: Any,
    mean_ref: Any,
    rstd_ref: Any,
    *,
    slab: Slab,
    epsilon: float,
) -> None:
    v, bias = v_ref[...], bias_ref[...]
    (total,) = _sums(lambda x: (x,), slab, x_ref)
    mean = _group_mean(total, slab)
    (squares,) = _sums(lambda x: (jnp.square(x - mean),), slab, x_ref)
    rstd = lax.rsqrt(_group_mean(squares, slab) + epsilon)
    scale = scale_ref[...] * rstd
    _write(lambda x: x * jax.nn.sigmoid(v * x) * scale + bias, slab, y_ref, x_ref)
    mean_ref[...], rstd_ref[...] = mean, rstd


def _backward_kernel(
    x_ref: Any,
    dy_ref: Any,
    v_ref: Any,
    scale_ref: Any,
    mean_ref: Any,
    rstd_ref: Any,
    dx_ref: Any,
    a_ref: Any,
    b_ref: Any,
    d_ref: Any,
    *,
    slab: Slab,
) -> None:
    v, scale, mean, rstd = v_ref[...], scale_ref[...], mean_ref[...], rstd_ref[...]

    def terms(x: jax.Array, dy: jax.Array) -> tuple[jax.Array, ...]:
        gated = x * jax.nn.sigmoid(v * x)
        product = dy * gated
        return product, dy, product * (x - gated)

    a, b, d = _sums(terms, slab, x_ref, dy_ref)
    a_ref[...], b_ref[...], d_ref[...] = a, b, d
    slope = rstd * rstd * rstd * _group_mean(a * scale, slab)
    factor = rstd * scale

    def input_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
        gate_input = v * x
        gate = jax.nn.sigmoid(gate_input)
        return factor * dy * (gate * (1 + gate_input * (1 - gate))) - slope * (x - mean)

    _write(input_gradient, slab, dx_ref, x_ref, dy_ref)


def _sums(terms: Callable[..., tuple[jax.Array, ...]], slab: Slab, *refs: Any) -> list[jax.Array]:
    """Sums over H and W of each of `terms(*values)`, `[samples, channels]`.

    In chunks, so that the float32 values live in registers: for the whole slab they would take as
    much vector memory again as the slab itself, or twice that for bfloat16.
    """

    def chunk(i: Any) -> tuple[jax.Array, ...]:
        return tuple(jnp.sum(value, axis=0) for value in terms(*_values(i, slab, refs)))

    def step(i: Any, totals: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        return tuple(total + value for total, value in zip(totals, chunk(i), strict=True))

    return list(lax.fori_loop(1, slab.rows // slab.chunk, step, chunk(0)))


def _write(function: Callable[..., jax.Array], slab: Slab, out: Any, *refs: Any) -> None:
    def step(i: Any, _: None) -> None:
        value = function(*_values(i, slab, refs))
        out[pl.ds(i * slab.chunk, slab.chunk)] = value.astype(out.dtype)

    lax.fori_loop(0, slab.rows // slab.chunk, step, None)


def _values(i: Any, slab: Slab, refs: tuple[Any, ...]) -> list[jax.Array]:
    positions = pl.ds(i * slab.chunk, slab.chunk)
    return [ref[positions].astype(jnp.float32) for ref in refs]


def _group_mean(sums: jax.Array, slab: Slab) -> jax.Array:
    """Sums over H and W `[samples, channels]` to each channel's mean over its group."""
    means = sums * (1 / slab.rows)
    if slab.group_size == 1:
        return means
    shape = (slab.channels, slab.channels)
    row, column = (
        lax.broadcasted_iota(jnp.int32, shape, axis) // slab.group_size for axis in (0, 1)
    )
    members = jnp.where(row == column, 1 / slab.group_size, 0.0).astype(jnp.float32)
    # The default precision rounds to bfloat16: 3 digits of a variance.
    return jnp.dot(
        means, members, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
    )


def _round_up(value: int, multiple: int) -> int:
    return multiple * math.ceil(value / multiple)
