"""Convolution and pooling, with padding that depends on the kernel alone or with TensorFlow's.

`padding="SAME"` pads an even input on its far side only, so the sampling grid of a strided
layer moves with the parity of the image size and with the framework. Here every side gets
`(kernel_size - 1) // 2`, as in the authors' TensorFlow code (`conv2d_fixed_padding`) and in
PyTorch: weights carry over, and an output is always `ceil(size / strides)` wide.

TensorFlow's mobile networks were nevertheless trained with "SAME", and their weights (timm calls
them `tf_...`) need it. For those weights the mobile networks here accept `padding="same"`.

There is one deliberate difference from the authors: their 3x3/2 max-pool uses "SAME", which lies
half a pixel apart from this one when its input is even. The output has the same shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from evonorm_jax.errors import UserError
from evonorm_jax.models.indexed_max_pool import indexed_max_pool

# tf.variance_scaling_initializer(), the authors' default: scale 1, fan-in, normal truncated
# at two standard deviations and rescaled to keep the variance 1 / fan_in.
conv_kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")

# The TPU code of MnasNet and EfficientNet, for squeeze-excite too: normal of variance 2 / fan_out.
mobile_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

PADDINGS = ("symmetric", "same")


def check_padding(padding: object) -> None:
    """Raises `UserError` unless `padding` is one of `PADDINGS`."""
    if padding not in PADDINGS:
        raise UserError(f"padding={padding!r}: expected one of {', '.join(PADDINGS)}.")


def pad_widths(padding: str, kernel_size: int, strides: int, size: int) -> tuple[int, int]:
    """Returns the numbers of zeros before and after an axis of `size` pixels.

    >>> pad_widths("symmetric", 3, 2, 224), pad_widths("same", 3, 2, 224)
    ((1, 1), (0, 1))
    """
    if padding == "symmetric":
        return (kernel_size - 1) // 2, (kernel_size - 1) // 2
    total = max((-(-size // strides) - 1) * strides + kernel_size - size, 0)
    return total // 2, total - total // 2


def conv2d(
    features: int,
    kernel_size: int,
    strides: int = 1,
    *,
    padding: str = "symmetric",
    use_bias: bool = False,
    kernel_init: Initializer = conv_kernel_init,
    dtype: Dtype | None = None,
    name: str | None = None,
) -> nn.Conv:
    """Makes a square convolution over `[N, H, W, C]`.

    Args:
      features: Number of output channels.
      kernel_size: Odd side of the kernel.
      strides: Step in both directions.
      padding: "symmetric", or TensorFlow's "same".
      use_bias: Whether a bias is added; the affine map of a layer that follows has one already.
      kernel_init: Initializer of the kernel.
      dtype: Dtype of the computation; the kernel itself stays float32.
      name: Name of the submodule.

    Returns:
      The module; its output is `[N, ceil(H / strides), ceil(W / strides), features]`.
    """
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides=strides,
        padding="SAME" if padding == "same" else (kernel_size - 1) // 2,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=dtype,
        name=name,
        conv_general_dilated=_pointwise_conv if kernel_size == 1 else None,
    )


def _pointwise_conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> jax.Array:
    """Computes a 1x1 convolution, on a CPU as one product of two matrices.

    A kernel of 1x1 needs no padding. On a CPU, XLA runs the product 1.2 to 4 times faster than the
    convolution, gradients included (64x32x32x144 to 24 channels: 27 instead of 120 ms), and a
    training step of MobileNetV2 on 64 images of 32x32 pixels takes 1.03 instead of 1.52 s.
    """

    def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = x[:, :: strides[0], :: strides[1]]
        y = x.reshape(-1, x.shape[-1]) @ kernel[0, 0]
        return y.reshape(*x.shape[:-1], kernel.shape[-1])

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)

    if not all(isinstance(size, int) for size in x.shape[1:3]):
        return convolve(x, kernel)  # exported for every size: the two would write it differently
    return lax.platform_dependent(x, kernel, cpu=matmul, default=convolve)


class TransposedConv(nn.Module):
    """Transposed convolution of kernel and stride 2: `[N, H, W, C]` to `[N, 2H, 2W, features]`.

    No two windows overlap, so it is one matrix product whose rows become squares of four pixels.

    Attributes:
      features: Number of output channels.
      kernel_init: Initializer of the kernel `[2, 2, C, features]`.
      dtype: Dtype of the computation; the parameters stay float32.
    """

    features: int
    kernel_init: Initializer = conv_kernel_init
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, height, width, channels = x.shape
        kernel = self.param("kernel", self.kernel_init, (2, 2, channels, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = jnp.einsum("nhwc,ijcf->nhiwjf", x, kernel) + bias
        return y.reshape(n, 2 * height, 2 * width, self.features)


def max_pool(x: jax.Array, window: int, strides: int) -> jax.Array:
    """Computes the maximum over odd square windows of `[N, H, W, C]`.

    Every side is padded with `(window - 1) // 2` rows or columns of -inf.
    """
    padding = (window - 1) // 2

    def indexed(x: jax.Array) -> jax.Array:
        return indexed_max_pool(x, window, strides, padding)

    def plain(x: jax.Array) -> jax.Array:
        borders = ((padding, padding), (padding, padding))
        return nn.max_pool(x, (window, window), strides=(strides, strides), padding=borders)

    # A TPU has an operation for the gradient.
    return lax.platform_dependent(x, tpu=plain, default=indexed)


def avg_pool(x: jax.Array, strides: int) -> jax.Array:
    """Computes the mean over square windows of `[N, H, W, C]` that do not overlap.

    The windows have side `strides`. A window that reaches over the edge averages the pixels that it
    holds (in PyTorch: `ceil_mode=True, count_include_pad=False`), so the output has the size of a
    convolution with these strides.

    >>> avg_pool(jax.numpy.array([1.0, 3.0, 8.0]).reshape(1, 1, 3, 1), 2).ravel().tolist()
    [2.0, 8.0]
    """
    # The most that any size can need: what a size does not need lies in no window. The output then
    # has one form for every size, that of a convolution, also where sizes are symbols.
    borders = (0, strides - 1)
    return nn.avg_pool(
        x,
        (strides, strides),
        strides=(strides, strides),
        padding=(borders, borders),
        count_include_pad=False,
    )


def upsample_nearest(x: jax.Array, factor: int) -> jax.Array:
    """Repeats every pixel of `[N, H, W, C]` as a square of `factor` x `factor` pixels."""
    return jnp.repeat(jnp.repeat(x, factor, axis=1), factor, axis=2)
