"""Depthwise convolution as a module; its arithmetic is `evonorm_jax.kernels.depthwise`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype, Initializer

from evonorm_jax.kernels.depthwise import depthwise_conv
from evonorm_jax.models.convolution import check_padding, pad_widths


class DepthwiseConv(nn.Module):
    """A depthwise convolution without bias, `[N, H, W, C]` to `[N, ceil(H / s), ceil(W / s), C]`.

    The parameter `kernel` is float32 `[k, k, 1, C]`, as that of `nn.Conv` with
    `feature_group_count=C`.

    Attributes:
      kernel_size: Odd side k of the filters.
      strides: Step s in both directions.
      padding: "symmetric", or TensorFlow's "same" (see `convolution.py`).
      kernel_init: Initializer of the kernel. The default is normal of variance 2 / k^2, as in the
        TPU code of EfficientNet.
      dtype: Dtype of the computation and the output; None means that of the input.

    >>> module = DepthwiseConv(kernel_size=3, strides=2)
    >>> y, variables = module.init_with_output(jax.random.key(0), jnp.ones((1, 7, 8, 16)))
    >>> y.shape, variables["params"]["kernel"].shape
    ((1, 4, 4, 16), (3, 3, 1, 16))
    """

    kernel_size: int
    strides: int = 1
    padding: str = "symmetric"
    kernel_init: Initializer = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, 1, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        dtype = x.dtype if self.dtype is None else self.dtype
        check_padding(self.padding)
        top, left = (
            pad_widths(self.padding, self.kernel_size, self.strides, length)
            for length in x.shape[1:3]
        )
        return depthwise_conv(
            x.astype(dtype), kernel.astype(dtype), strides=self.strides, pads=(top, left)
        )
