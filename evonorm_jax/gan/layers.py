"""The layers that generator and discriminator share, and upsampling."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.typing import Dtype

from evonorm_jax.gan.orthogonal import orthogonal
from evonorm_jax.models.convolution import conv2d

conv = functools.partial(conv2d, use_bias=True, kernel_init=orthogonal)
dense = functools.partial(nn.Dense, kernel_init=orthogonal)


def upsample(x: jax.Array) -> jax.Array:
    """Repeats every pixel twice in both directions: `[N, H, W, C]` to `[N, 2 H, 2 W, C]`."""
    n, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c))
    return x.reshape(n, 2 * h, 2 * w, c)


class NonLocal(nn.Module):
    """The non-local block, where every pixel attends to all 2x2 pools; the shape stays the same.

    It computes x + gamma o(softmax(theta(x) phi(x)^T) g(x)) for maps x `[N, H, W, C]`. Theta, phi,
    g and o are 1x1 convolutions without bias. Theta and phi have C/8 channels, g has C/2, and phi
    and g are max-pooled. Gamma is a parameter that starts at 0. There is no factor 1/sqrt(C/8) in
    the softmax. Source: Zhang et al. 2019 (arXiv:1805.08318), in the form of BigGAN.

    Attributes:
      dtype: Dtype of the convolutions.
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        n, height, width, channels = x.shape
        project = functools.partial(conv2d, kernel_size=1, kernel_init=orthogonal, dtype=self.dtype)

        def pool(x: jax.Array) -> jax.Array:
            return nn.max_pool(x, (2, 2), (2, 2)).reshape(n, -1, x.shape[-1])

        theta = project(channels // 8, name="theta")(x).reshape(n, -1, channels // 8)
        phi = pool(project(channels // 8, name="phi")(x))
        g = pool(project(channels // 2, name="g")(x))
        logits = jnp.einsum("nqc,nkc->nqk", theta, phi, preferred_element_type=jnp.float32)
        weights = nn.softmax(logits).astype(x.dtype)
        attended = jnp.einsum("nqk,nkc->nqc", weights, g).reshape(n, height, width, channels // 2)
        gamma = self.param("gamma", nn.initializers.zeros, ())
        return x + gamma.astype(x.dtype) * project(channels, name="output")(attended)
