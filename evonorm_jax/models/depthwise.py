"""Depthwise convolution: one k x k filter per channel, in the form that each platform runs best."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer
from jax import lax

from evonorm_jax.models.convolution import pad_widths


class DepthwiseConv(nn.Module):
    """A depthwise convolution without bias, `[N, H, W, C]` to `[N, ceil(H / s), ceil(W / s), C]`.

    The parameter `kernel` is `[k, k, 1, C]`, as that of `nn.Conv` with `feature_group_count=C`.
    """

    kernel_size: int
    strides: int = 1
    padding: str = "symmetric"
    dtype: Dtype | None = None
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return depthwise_conv(x, kernel, strides=self.strides, padding=self.padding)


def depthwise_conv(
    x: jax.Array, kernel: jax.Array, *, strides: int = 1, padding: str = "symmetric"
) -> jax.Array:
    """`x` `[N, H, W, C]` with `kernel` `[k, k, 1, C]`."""
    pads = tuple(pad_widths(padding, kernel.shape[0], strides, size) for size in x.shape[1:3])

    def shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
        k = kernel.shape[0]
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        height = (x.shape[1] - k) // strides + 1
        width = (x.shape[2] - k) // strides + 1
        total = jnp.zeros((), x.dtype)
        for i, j in itertools.product(range(k), range(k)):
            rows = slice(i, i + strides * (height - 1) + 1, strides)
            columns = slice(j, j + strides * (width - 1) + 1, strides)
            total = total + x[:, rows, columns] * kernel[i, j, 0]
        return total

    def grouped(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (strides, strides),
            pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    return lax.platform_dependent(x, kernel, cpu=shifted, default=grouped)
