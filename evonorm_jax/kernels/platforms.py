"""The operations that have a best form of their own on each of CPU, GPU and TPU.

A platform offers `moments`, `sums`, `group_mean`, `ungroup`, `sigmoid`, `gate`, `gate_derivative`,
`quotient`, `divider`, `cast`, `isolate` and `separate`; the layers are written once in terms of
them. `on_platform` lets the compiler choose when it lowers, so one traced program serves every
device and exports to several. Tensors are `[N, H, W, C]`, statistics `[N, C]`.

The CPU forms rest on these measurements (XLA:CPU of jax 0.10 and 0.12, both alike):

* A reduction over a long axis runs scalar code when it is fused with its producer. Over an axis of
  at most 8 the compiler unrolls it and vectorises over channels: 0.8 instead of 6.0 ms at
  16x56x56x64.
* Longer axes are summed in stages of such short ones: 0.55 instead of 0.72 ms at 32x14x14x256.
* Several sums must share one pass, or the exponential is computed once for each. A variadic
  reduction shares the pass, and its results never fuse into later operations.
* The index arithmetic of a `[N, G] -> [N, C]` broadcast inside a loop over the tensor stops
  vectorisation (5.2 instead of 2.1 ms). A barrier keeps it out of the loop, except in jax 0.10,
  which fuses through the barrier. There, groups are pooled and spread by small matrix products: a
  step of S0 at 16x56x56x64 takes 4.5 instead of 6.3 ms. In jax 0.12 the products would cost 3.5
  instead of 3.2 ms.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from evonorm_jax.kernels.cpu_math import exp2, round_to_bfloat16
from evonorm_jax.kernels.implementations import is_partitioned

Terms = Callable[..., tuple[jax.Array, ...]]

# Unrolled by the compiler up to this length; at 14 the loop stays, and runs 7 times slower.
_SHORT_AXIS = 8

# XLA:GPU: maps of at most this many pixels are summed by loops of at most so many.
_FEW_PIXELS = 64
_LOOP = 28

_FUSES_THROUGH_BARRIERS = jax.__version_info__ < (0, 11)

# Of the mean's square, below which E[x^2] - E[x]^2 is not trusted: it has lost 8 of 24 bits there.
_LEAST_VARIANCE = 2**-8

_MINUS_LOG2_E = np.float32(-1 / math.log(2))


def accumulation_dtype(x: jax.Array) -> jnp.dtype:
    """Returns float64 for float64, and float32 for everything narrower."""
    return jnp.promote_types(x.dtype, jnp.float32)


class Default:
    """The plain forms; a platform overrides those that it has a better form for."""

    @staticmethod
    def sigmoid(v: jax.Array | float, x: jax.Array) -> jax.Array:
        """Computes 1 / (1 + exp(-v x))."""
        return jax.nn.sigmoid(v * x)

    @classmethod
    def gate(cls, y: jax.Array, v: jax.Array | float, x: jax.Array) -> jax.Array:
        """Computes y * sigmoid(v x)."""
        return y * cls.sigmoid(v, x)

    @classmethod
    def gate_derivative(cls, y: jax.Array, v: jax.Array | float, x: jax.Array) -> jax.Array:
        """Computes y times the derivative of x * sigmoid(v x) with respect to x."""
        gate = cls.sigmoid(v, x)
        return y * (gate + v * x * gate * (1 - gate))

    @staticmethod
    def quotient(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
        """Divides by `denominator`, which is positive."""
        return numerator / denominator

    @staticmethod
    def divider(denominator: jax.Array) -> Callable[[jax.Array], jax.Array]:
        """Returns a function that divides several numerators by `denominator`, as `quotient`."""
        inverse = 1 / denominator
        return lambda numerator: numerator * inverse

    @staticmethod
    def cast(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Rounds `x` to `dtype`."""
        return x.astype(dtype)

    @staticmethod
    def isolate(tree: Any) -> Any:
        """Keeps neighbouring operations from fusing into `tree`, where that pays."""
        return tree

    @staticmethod
    def separate(tree: Any) -> Any:
        """Keeps the compiler from reusing what it computed from `tree` before, where that pays."""
        return tree

    @staticmethod
    def sums(terms: Terms, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        """Sums each of `terms(*arrays)` over H and W, to `[N, C]` in the accumulation dtype."""
        dtype = accumulation_dtype(arrays[0])
        return tuple(
            jnp.sum(term, axis=(1, 2)) for term in terms(*(array.astype(dtype) for array in arrays))
        )

    @classmethod
    def moments(cls, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Computes the mean and the biased variance over H and W, `[N, C]` each."""
        mean = jnp.mean(x, axis=(1, 2), dtype=accumulation_dtype(x))
        return mean, cls._variance(x, mean)

    @classmethod
    def _variance(cls, x: jax.Array, mean: jax.Array) -> jax.Array:
        (squares,) = cls.sums(lambda x: (jnp.square(x - expand(mean)),), x)
        return squares / (x.shape[1] * x.shape[2])

    @staticmethod
    def group_mean(x: jax.Array, num_groups: int) -> jax.Array:
        """Averages each group of neighbouring channels: `[N, C]` to `[N, G]`."""
        if x.shape[-1] == num_groups:
            return x
        return jnp.mean(x.reshape(x.shape[0], num_groups, -1), axis=-1)

    @staticmethod
    def ungroup(x: jax.Array, num_channels: int) -> jax.Array:
        """Gives each channel the value of its group: `[N, G]` to `[N, C]`."""
        if x.shape[-1] == num_channels:
            return x
        return jnp.repeat(x, num_channels // x.shape[-1], axis=-1)


class Tpu(Default):
    """XLA:TPU, and all platforms without a form of their own: no barriers hinder fusion.

    The compiler fuses the layer with the convolutions around it: it normalises while a convolution
    reads its input and sums while it writes its output, and keeps smaller maps on the chip between
    two passes. The memory traffic of a bottleneck block of ResNet-50 with S0 at 56x56x256, 128
    images in bfloat16, compiled for a v5e by jax 0.11, is 3,548 MB with the barriers of the other
    platforms, 3,292 MB without, 3,086 MB with the moments below, and 3,084 MB with the BatchNorm
    and ReLU of Flax.

    On a v5p and a v6e a layer is fused into each of the convolutions that read it only while its
    expression is short and without divisions. So quotients are products with a reciprocal square
    root, which is also more accurate on a TPU, and `TpuBfloat16` has a shorter gate. With XLA's
    divisions and gate the same block moved 4,168 instead of 3,655 MB on a v5p (B0: 4,166 instead of
    3,652), and 3,394 instead of 3,292 MB on a v6e (B0: 3,651 instead of 3,394).
    """

    @classmethod
    def quotient(cls, numerator: jax.Array, denominator: jax.Array) -> jax.Array:
        return cls.divider(denominator)(numerator)

    @staticmethod
    def divider(denominator: jax.Array) -> Callable[[jax.Array], jax.Array]:
        root = lax.rsqrt(denominator)
        # Not by the square of the root: the compiler makes a division of that again.
        return lambda numerator: (numerator * root) * root

    @classmethod
    def moments(cls, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        if is_partitioned():
            # The devices would have to agree on the condition below, in each layer.
            return super().moments(x)
        count = x.shape[1] * x.shape[2]
        mean, squares = (total / count for total in cls.sums(lambda x: (x, jnp.square(x)), x))
        variance = squares - jnp.square(mean)
        # E[x^2] - E[x]^2 loses digits where the mean is large: a second pass where the variance is
        # less than 1/256 of mean^2 in any map (or not a number, if x^2 overflows).
        is_enough = jnp.all(variance >= _LEAST_VARIANCE * jnp.square(mean))
        variance = lax.cond(
            is_enough,
            lambda x, mean, variance: variance,
            lambda x, mean, variance: cls._variance(x, mean),
            *(x, mean, variance),
        )
        return mean, variance

    @staticmethod
    def group_mean(x: jax.Array, num_groups: int) -> jax.Array:
        # A matrix product: to split the last axis takes copies.
        return _pool_by_product(x, num_groups)

    @staticmethod
    def ungroup(x: jax.Array, num_channels: int) -> jax.Array:
        return _spread_by_product(x, num_channels)


class TpuBfloat16(Tpu):
    """XLA:TPU for bfloat16 x: the gate is (1 + tanh(v x / 2)) / 2, which has no division.

    Its error is absolute, so a gate near 0 has no correct digits. By the table in JAX's
    `docs/accuracy.md` the tanh is off by up to 1,366 units in the last place on a v5e, which makes
    4e-5 for the gate; by 92 on a v5p; by 2 on a v6e.
    """

    @staticmethod
    def sigmoid(v: jax.Array | float, x: jax.Array) -> jax.Array:
        return 0.5 + 0.5 * jnp.tanh(0.5 * v * x)

    @staticmethod
    def gate_derivative(y: jax.Array, v: jax.Array | float, x: jax.Array) -> jax.Array:
        half = 0.5 * v * x
        tanh = jnp.tanh(half)  # 2 gate - 1
        return 0.5 * y * ((1 + tanh) * (1 + half * (1 - tanh)))


class Gpu(Default):
    """XLA:GPU: sums share a reduction as the parts of complex numbers.

    A variadic reduction writes its operands to memory first, and separate reductions may read x
    once each. Compiled for an H100 by jax 0.11, a tensor of 128x56x56x64 in bfloat16 takes 3 passes
    forward. Backward it takes 5 passes for BN, GN and S1, and 6 for S0 (one more read of dy). It
    takes 7 for B0 to B2, which have four sums in two pairs, and for "swish" and FRN, which have a
    third sum that stands alone.
    """

    @staticmethod
    def sums(terms: Terms, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        dtype = accumulation_dtype(arrays[0])
        wide = tuple(array.astype(dtype) for array in arrays)
        values = terms(*wide)
        # A pair reads all of the arrays. A term that is itself one of them needs a single read, so
        # it takes a place in a pair only where that would stay empty (S0: 3 reads, not 4).
        alone = [i for i, value in enumerate(values) if any(value is array for array in wide)]
        paired = [i for i in range(len(values)) if i not in alone]
        if len(paired) % 2:
            if alone:
                paired.append(alone.pop())
            else:
                alone.append(paired.pop())
        # One reduction a pair. All pairs stacked in one would be read once (B0: 8 passes, not 10,
        # by the compiler's count), and were slower: at maps from 56x56 to 14x14 B0 took 1.36 to
        # 2.04 times Flax's BatchNorm and ReLU on an H100, with pairs 1.10 to 1.40 on an H200.
        pairs = list(zip(paired[::2], paired[1::2], strict=True))
        parts = [values[i] for i in alone] + [lax.complex(values[i], values[j]) for i, j in pairs]
        sums = _pixel_sums(parts)
        totals = dict(zip(alone, sums[: len(alone)], strict=True))
        for (i, j), total in zip(pairs, sums[len(alone) :], strict=True):
            totals[i], totals[j] = total.real, total.imag
        return tuple(totals[i] for i in range(len(values)))

    @classmethod
    def moments(cls, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        # One pass over values shifted by the mean of the middle row. Without the shift the variance
        # loses all its digits once mean / std passes 1000; the first row would do as well inside a
        # tensor but is what zero padding disturbs.
        middle = x.shape[1] // 2
        row = x[:, middle : middle + 1].astype(accumulation_dtype(x))
        pivot = jnp.sum(row / x.shape[2], axis=(1, 2))  # divided first: a kernel less than a mean
        return _shifted_moments(cls.sums, x, pivot)

    @staticmethod
    def separate(tree: Any) -> Any:
        return lax.optimization_barrier(tree)


def _pixel_sums(parts: list[jax.Array]) -> list[jax.Array]:
    """Sums tensors `[N, H, W, C]` over H and W, in the form that is fastest with XLA:GPU."""
    _, height, width, _ = parts[0].shape
    pixels = height * width
    if not isinstance(pixels, int) or pixels > _FEW_PIXELS:
        return [jnp.sum(part, axis=(1, 2)) for part in parts]
    # Over few pixels XLA's reduction leaves most threads idle. Sums of up to 28 pixels become loops
    # in the threads of an elementwise kernel instead, and the barrier keeps the loops from being
    # joined to one reduction again. An H200 takes 507 instead of 931 us for B0 and 408 instead of
    # 649 for S0 at 2048x7x7x512 (forward and backward; Flax's BatchNorm and ReLU: 349), but twice
    # the time from 14x14 on.
    flat = [part.reshape(part.shape[0], pixels, -1) for part in parts]
    chunks = lax.optimization_barrier(
        [
            [jnp.sum(part[:, start : start + _LOOP], axis=1) for start in range(0, pixels, _LOOP)]
            for part in flat
        ]
    )
    return [functools.reduce(jnp.add, sums) for sums in chunks]


class Cpu(Default):
    """XLA:CPU: variadic reductions over short axes, and matrix products.

    The module docstring has the measurements.
    """

    #: Whether the precision of bfloat16 is enough for the gate.
    rough: ClassVar[bool] = False

    @classmethod
    def sigmoid(cls, v: jax.Array | float, x: jax.Array) -> jax.Array:
        if x.dtype != jnp.float32:
            return Default.sigmoid(v, x)
        return 1 / (1 + cls._exp_minus(v, x))

    @classmethod
    def gate(cls, y: jax.Array, v: jax.Array | float, x: jax.Array) -> jax.Array:
        if x.dtype != jnp.float32:
            return super().gate(y, v, x)
        return y / (1 + cls._exp_minus(v, x))

    @classmethod
    def _exp_minus(cls, v: jax.Array | float, x: jax.Array) -> jax.Array:
        # v and the constant first: one multiplication for each pixel instead of two.
        return exp2((v * _MINUS_LOG2_E) * x, cls.rough)

    @staticmethod
    def cast(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
        if x.dtype == jnp.float32 and dtype == jnp.bfloat16:
            return round_to_bfloat16(x)
        return x.astype(dtype)

    @staticmethod
    def isolate(tree: Any) -> Any:
        # Outputs: else pieces of the layer are computed again inside the layout changes around the
        # convolutions, scalar, and a ResNet-18 step takes 1.10 instead of 0.89 of that with
        # BatchNorm-ReLU. Coefficients: else their products are formed anew for every pixel, 5 of
        # 32 instructions of S0's backward pass.
        return lax.optimization_barrier(tree)

    @staticmethod
    def separate(tree: Any) -> Any:
        return lax.optimization_barrier(tree)

    @staticmethod
    def sums(terms: Terms, *arrays: jax.Array) -> tuple[jax.Array, ...]:
        n, h, w, c = arrays[0].shape
        if not isinstance(h * w, int):  # exported for every size: no stages to choose
            return Default.sums(terms, *arrays)
        dtype = accumulation_dtype(arrays[0])
        totals = _row_sums(
            lambda *rows: terms(*(array.astype(dtype) for array in rows)),
            *(array.reshape(n, h * w, c) for array in arrays),
        )
        return tuple(total.reshape(n, c) for total in totals)

    @classmethod
    def moments(cls, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The mean alone is a library reduction at memory speed, so the second pass costs little.
        # The barrier keeps the passes from sharing a conversion to float32, a full tensor.
        mean = jnp.mean(lax.optimization_barrier(x), axis=(1, 2), dtype=accumulation_dtype(x))
        return _shifted_moments(cls.sums, x, mean)

    @staticmethod
    def group_mean(x: jax.Array, num_groups: int) -> jax.Array:
        if not _FUSES_THROUGH_BARRIERS:
            return Default.group_mean(x, num_groups)
        return _pool_by_product(x, num_groups)

    @staticmethod
    def ungroup(x: jax.Array, num_channels: int) -> jax.Array:
        if not _FUSES_THROUGH_BARRIERS:
            return Default.ungroup(x, num_channels)
        return _spread_by_product(x, num_channels)


class CpuBfloat16(Cpu):
    """XLA:CPU for bfloat16 x: a step of S0 at 16x56x56x64 takes 2.9 instead of 3.4 ms."""

    rough = True


def expand(statistic: jax.Array) -> jax.Array:
    """Reshapes `[N, C]` to `[N, 1, 1, C]`."""
    return statistic[:, None, None, :]


Platform = type[Default]


def on_platform(function: Callable[..., Any], *operands: Any) -> Any:
    """Calls `function(platform, x, ...)` with the platform that the program is lowered for."""

    def bind(platform: Platform) -> Callable[..., Any]:
        return functools.partial(function, platform)

    is_bfloat16 = operands[0].dtype == jnp.bfloat16
    cpu = bind(CpuBfloat16 if is_bfloat16 else Cpu)
    tpu = bind(TpuBfloat16 if is_bfloat16 else Tpu)
    gpu = bind(Gpu)
    return lax.platform_dependent(*operands, cpu=cpu, cuda=gpu, rocm=gpu, default=tpu)


def _shifted_moments(
    sums: Callable[..., tuple[jax.Array, ...]], x: jax.Array, pivot: jax.Array
) -> tuple[jax.Array, jax.Array]:
    def terms(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        shifted = x - expand(pivot)
        return shifted, jnp.square(shifted)

    total, squares = (value / (x.shape[1] * x.shape[2]) for value in sums(terms, x))
    return pivot + total, jnp.maximum(squares - jnp.square(total), 0)


def _row_sums(terms: Terms, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Sums over the rows of `[N, rows, C]`, one short axis at a time, to `[N, 1, C]`."""
    n, rows, c = arrays[0].shape
    short = _short_divisor(rows) or _SHORT_AXIS
    main = rows - rows % short
    # Chunks of neighbouring rows, not every eighth row: 1.7 instead of 2.4 ms at 16x56x56x64.
    chunks = (array[:, :main].reshape(n, short, main // short, c) for array in arrays)
    totals = _short_sums(terms, *chunks)
    while (left := totals[0].shape[1]) > 1:
        if step := _short_divisor(left):
            parts = (total.reshape(n, step, left // step, c) for total in totals)
            totals = _short_sums(lambda *rows: rows, *parts)
        else:
            totals = tuple(jnp.sum(total, axis=1, keepdims=True) for total in totals)
    if main == rows:
        return totals
    return _add_each(totals, _short_sums(terms, *(array[:, main:, None] for array in arrays)))


def _short_divisor(rows: int) -> int | None:
    """Returns the length of the next axis to sum over, or None if no short one divides `rows`."""
    if rows <= _SHORT_AXIS:
        return rows
    divisors = (d for d in range(_SHORT_AXIS, _SHORT_AXIS // 2 - 1, -1) if rows % d == 0)
    return next(divisors, None)


def _short_sums(terms: Terms, *arrays: jax.Array) -> tuple[jax.Array, ...]:
    """Sums all terms over the second axis of `[N, short, rows, C]` in one pass."""
    return _reduce_each(terms(*arrays))


@jax.custom_jvp
def _reduce_each(values: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    zeros = tuple(value.dtype.type(0) for value in values)
    return tuple(lax.reduce(values, zeros, _add_each, dimensions=(1,)))


@_reduce_each.defjvp
def _reduce_each_jvp(
    primals: tuple[tuple[jax.Array, ...]], tangents: tuple[tuple[jax.Array, ...]]
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    # For second derivatives: jax 0.12 cannot differentiate a variadic reduction one of whose
    # operands is constant.
    return _reduce_each(*primals), tuple(jnp.sum(tangent, axis=1) for tangent in tangents[0])


def _add_each(left: tuple[jax.Array, ...], right: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    return tuple(a + b for a, b in zip(left, right, strict=True))


def _membership(num_channels: int, num_groups: int, dtype: jnp.dtype) -> np.ndarray:
    """Returns a matrix `[G, C]` with 1 where the channel is in the group, and 0 elsewhere."""
    return np.repeat(np.eye(num_groups, dtype=dtype), num_channels // num_groups, axis=1)


def _pool_by_product(x: jax.Array, num_groups: int) -> jax.Array:
    if x.shape[-1] == num_groups:
        return x
    members = _membership(x.shape[-1], num_groups, x.dtype)
    return _matmul(x, members.T) * (num_groups / x.shape[-1])


def _spread_by_product(x: jax.Array, num_channels: int) -> jax.Array:
    if x.shape[-1] == num_channels:
        return x
    return _matmul(x, _membership(num_channels, x.shape[-1], x.dtype))


def _matmul(x: jax.Array, matrix: np.ndarray) -> jax.Array:
    return jnp.dot(x, matrix, precision=lax.Precision.HIGHEST)
