"""Convolution and pooling whose padding depends on the kernel alone, never on the image.

`padding="SAME"` pads an even input on its far side only, so the sampling grid of a strided
layer moves with the parity of the image size and with the framework. Here every side gets
`(kernel_size - 1) // 2`, as in the authors' TensorFlow code (`conv2d_fixed_padding`) and in
PyTorch: weights carry over, and an output is always `ceil(size / strides)` wide.

One deliberate difference from the authors: their 3x3/2 max-pool uses "SAME", half a pixel
apart from this one when its input is even. The output has the same shape.
"""

from __future__ import annotations

import jax
from flax import linen as nn
from flax.typing import Dtype

# tf.variance_scaling_initializer(), the authors' default: scale 1, fan-in, normal truncated
# at two standard deviations and rescaled to keep the variance 1 / fan_in.
conv_kernel_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def conv2d(
    features: int,
    kernel_size: int,
    strides: int = 1,
    *,
    dtype: Dtype | None = None,
    name: str | None = None,
) -> nn.Conv:
    """A square convolution without bias over `[N, H, W, C]`, padded by the kernel size.

    Args:
        features: output channels.
        kernel_size: odd side of the kernel.
        strides: step in both directions.
        dtype: dtype of the computation; the kernel itself stays float32.
        name: name of the submodule.

    Returns:
        The module; its output is `[N, ceil(H / strides), ceil(W / strides), features]`.
    """
    padding = (kernel_size - 1) // 2
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides=strides,
        padding=padding,
        use_bias=False,  # the affine transform of the layer that follows has one
        kernel_init=conv_kernel_init,
        dtype=dtype,
        name=name,
    )


def max_pool(x: jax.Array, window: int, strides: int) -> jax.Array:
    """Maximum over odd square windows of `[N, H, W, C]`, padded with -inf by the window size."""
    padding = (window - 1) // 2
    return nn.max_pool(
        x,
        (window, window),
        strides=(strides, strides),
        padding=((padding, padding), (padding, padding)),
    )
