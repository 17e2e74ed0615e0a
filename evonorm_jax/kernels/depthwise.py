"""Depthwise convolution, one k x k filter per channel, in the form each platform runs best.

On a CPU XLA runs a grouped convolution one channel at a time; k * k shifted multiply-adds of the
whole padded image vectorise over the channels instead. Milliseconds on 2 cores (jax 0.10, float32,
grouped against shifted):

    N x H x W x C, k, strides     forward          gradient of x    gradient of the kernel
    16x14x14x240,  5, 1           31 and 0.9       31 and 0.8       48 and 1.1
    16x56x56x96,   3, 1          125 and 2.4      125 and 2.5      127 and 5.5
    16x56x56x96,   3, 2           33 and 1.7      224 and 0.9       23 and 2.4

Differentiating the shifted form leaves k * k overlapping pads to be added and k * k reductions over
a long axis, which run scalar: 3.3 and 22 ms instead of 0.8 and 1.1 in the first row. So both
gradients are written out. GPU and TPU run the grouped convolution and its own gradients.

The gradients are a custom rule, which has reverse mode of any order and no forward mode.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from evonorm_jax.errors import UserError
from evonorm_jax.kernels.platforms import Cpu, accumulation_dtype

Pads = tuple[tuple[int, int], tuple[int, int]]


def depthwise_conv(x: jax.Array, kernel: jax.Array, *, strides: int, pads: Pads) -> jax.Array:
    """Convolves each channel of `x` `[N, H, W, C]` with its own filter of `kernel` `[k, k, 1, C]`.

    On a CPU the sums are taken in float32, or in float64 for float64.

    Args:
      x: Images `[N, H, W, C]` of any floating dtype.
      kernel: Filters `[k, k, 1, C]` of the same dtype; k is odd.
      strides: Step in both directions.
      pads: Zeros before and after H, and before and after W. Widths that are symbols stand for
        TensorFlow's "same".

    Returns:
      The output `[N, (H + pads - k) // strides + 1, (W + pads - k) // strides + 1, C]`, in the
      dtype of `x`.

    Raises:
      UserError: The kernel has another shape than `[k, k, 1, C]` with odd k.

    >>> image = jnp.arange(9.0).reshape(1, 3, 3, 1)
    >>> y = depthwise_conv(image, jnp.ones((3, 3, 1, 1)), strides=2, pads=((1, 1), (1, 1)))
    >>> y[0, :, :, 0].tolist()
    [[8.0, 12.0], [20.0, 24.0]]
    """
    size = kernel.shape[0]
    if kernel.shape != (size, size, 1, x.shape[-1]) or size % 2 == 0:
        raise UserError(
            f"a depthwise kernel for images {x.shape} is [k, k, 1, {x.shape[-1]}] with odd k, "
            f"not {kernel.shape}."
        )
    if not all(isinstance(width, int) for widths in pads for width in widths):
        # Exported for every size, on which the widths depend: JAX alone can take them.
        return grouped(Window(strides, "SAME"), x, kernel)
    return _conv(Window(strides, pads), x, kernel)


class Window(NamedTuple):
    """The static movement of the filter, as `lax.conv_general_dilated` takes it."""

    strides: int
    pads: Any  # `Pads`; for `grouped` also "SAME"


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(shifted, window),
        default=functools.partial(grouped, window),
    )


def _conv_fwd(window: Window, x: jax.Array, kernel: jax.Array) -> Any:
    return _conv(window, x, kernel), (x, kernel)


def _conv_bwd(window: Window, operands: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return lax.platform_dependent(
        *operands,
        cotangent,
        cpu=functools.partial(shifted_gradients, window),
        default=functools.partial(grouped_gradients, window),
    )


_conv.defvjp(_conv_fwd, _conv_bwd)


def grouped(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the convolution by XLA's own operation."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (window.strides, window.strides),
        window.pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def grouped_gradients(
    window: Window, x: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of `grouped` with respect to `x` and `kernel`, as JAX derives them."""
    _, gradients = jax.vjp(functools.partial(grouped, window), x, kernel)
    return gradients(cotangent)


def shifted(window: Window, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the convolution by one multiply-add of the whole image for each filter tap."""
    height, width = (
        (length + sum(pads) - kernel.shape[0]) // window.strides + 1
        for length, pads in zip(x.shape[1:3], window.pads, strict=True)
    )
    weights = kernel.astype(accumulation_dtype(x))
    padded = _pad(x, window.pads)
    y = jnp.zeros((x.shape[0], height, width, x.shape[-1]), padded.dtype)
    for i, j in _taps(kernel):
        y = y + _shift(padded, i, j, window.strides, height, width) * weights[None, i, None, j]
    return Cpu.isolate(Cpu.cast(y, x.dtype))


def shifted_gradients(
    window: Window, x: jax.Array, kernel: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients of `shifted`, also by shifted multiply-adds."""
    return (
        _image_gradient(window, x.shape, kernel, cotangent).astype(x.dtype),
        _kernel_gradient(window, x, kernel.shape[0], cotangent).astype(kernel.dtype),
    )


def _image_gradient(
    window: Window, shape: tuple[int, ...], kernel: jax.Array, cotangent: jax.Array
) -> jax.Array:
    """Computes the gradient of the image, for one phase of the strides after the other.

    The pixels of a phase are s * t + phase; each tap reaches the pixels of one phase only.
    """
    strides, ((top, _), (left, _)) = window
    n, h, w, c = shape
    height, width = -(-h // strides), -(-w // strides)
    size = kernel.shape[0]

    def pads(length: int, given: int, before: int) -> tuple[int, int]:
        """Returns how far pixels 0 ... length - 1 of any phase read beyond the cotangents."""
        after = length - given + (strides - 1 + before) // strides
        return (size - 1 - before) // strides, max(after, 0)

    vertical = pads(height, cotangent.shape[1], top)
    horizontal = pads(width, cotangent.shape[2], left)
    padded = _pad(cotangent, (vertical, horizontal))
    weights = kernel.astype(padded.dtype)
    phases = []
    for a, b in itertools.product(range(strides), repeat=2):
        phase = jnp.zeros((n, height, width, c), padded.dtype)
        for i, j in _taps(kernel):
            (row, row_off), (column, column_off) = (
                divmod(a + top - i, strides),
                divmod(b + left - j, strides),
            )
            if not row_off and not column_off:
                part = _shift(padded, row + vertical[0], column + horizontal[0], 1, height, width)
                phase = phase + part * weights[None, i, None, j]
        phases.append(Cpu.cast(phase, cotangent.dtype))
    grid = jnp.stack(phases).reshape(strides, strides, n, height, width, c)
    whole = grid.transpose(2, 3, 0, 4, 1, 5).reshape(n, height * strides, width * strides, c)
    return Cpu.isolate(whole[:, :h, :w])


def _kernel_gradient(window: Window, x: jax.Array, size: int, cotangent: jax.Array) -> jax.Array:
    """Sums the products of shifted image and cotangent; one row of the filter shares a pass."""
    padded = _pad(x, window.pads)
    rows = []
    for i in range(size):
        shifts = (_shift(padded, i, j, window.strides, *cotangent.shape[1:3]) for j in range(size))
        sums = Cpu.sums(lambda g, *parts: tuple(g * part for part in parts), cotangent, *shifts)
        rows.append(jnp.stack([jnp.sum(total, axis=0) for total in sums]))
    return jnp.stack(rows)[:, :, None]


def _taps(kernel: jax.Array) -> Iterator[tuple[int, int]]:
    size = kernel.shape[0]
    return ((i, j) for i in range(size) for j in range(size))


def _pad(x: jax.Array, pads: Pads) -> jax.Array:
    """Puts zeros around the images, in the accumulation dtype.

    The images are converted once here instead of for every tap.
    """
    return Cpu.isolate(jnp.pad(x.astype(accumulation_dtype(x)), ((0, 0), *pads, (0, 0))))


def _shift(
    padded: jax.Array, row: int, column: int, strides: int, height: int, width: int
) -> jax.Array:
    """Returns every `strides`-th pixel from (row, column) on, `[N, height, width, C]`."""
    return padded[
        :,
        row : row + strides * (height - 1) + 1 : strides,
        column : column + strides * (width - 1) + 1 : strides,
    ]
