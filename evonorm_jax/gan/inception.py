"""The Inception-v3 of FID and the Inception Score: the TensorFlow graph of 2015-12-05.

Its names are those of torch-fidelity's copy, whose weights `interop.load_inception_weights` reads.
It is not the Inception-v3 of torchvision or Keras: it has 1,008 classes, its average pools leave
the padding out, its last block (`Mixed_7c`) has a maximum pool instead of an average pool, and its
images are resized by the rule of TensorFlow 1. Sources: Szegedy et al. 2016 (arXiv:1512.00567) for
the architecture; the code of torch-fidelity 0.4 and pytorch-fid for how the graph differs from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from evonorm_jax.errors import UserError

#: Side of the images that the network was trained on, in pixels.
IMAGE_SIZE = 299

# A unit: name, features, height and width of the kernel. A branch: its units in order.
_Unit = tuple[str, int, int, int]


def _block_a(pool_features: int) -> list[list[_Unit]]:
    return [
        [("branch1x1", 64, 1, 1)],
        [("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 5)],
        [
            ("branch3x3dbl_1", 64, 1, 1),
            ("branch3x3dbl_2", 96, 3, 3),
            ("branch3x3dbl_3", 96, 3, 3),
        ],
        [("branch_pool", pool_features, 1, 1)],
    ]


def _block_c(features: int) -> list[list[_Unit]]:
    return [
        [("branch1x1", 192, 1, 1)],
        [
            ("branch7x7_1", features, 1, 1),
            ("branch7x7_2", features, 1, 7),
            ("branch7x7_3", 192, 7, 1),
        ],
        [
            ("branch7x7dbl_1", features, 1, 1),
            ("branch7x7dbl_2", features, 7, 1),
            ("branch7x7dbl_3", features, 1, 7),
            ("branch7x7dbl_4", features, 7, 1),
            ("branch7x7dbl_5", 192, 1, 7),
        ],
        [("branch_pool", 192, 1, 1)],
    ]


# The last unit of each branch has stride 2 and no padding.
_BLOCK_B: list[list[_Unit]] = [
    [("branch3x3", 384, 3, 3)],
    [("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 3), ("branch3x3dbl_3", 96, 3, 3)],
]
_BLOCK_D: list[list[_Unit]] = [
    [("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 3)],
    [
        ("branch7x7x3_1", 192, 1, 1),
        ("branch7x7x3_2", 192, 1, 7),
        ("branch7x7x3_3", 192, 7, 1),
        ("branch7x7x3_4", 192, 3, 3),
    ],
]


class ConvUnit(nn.Module):
    """A convolution without bias, batch normalisation by running statistics, and a ReLU."""

    features: int
    kernel_size: tuple[int, int]
    strides: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(
            self.features,
            self.kernel_size,
            self.strides,
            padding=self.padding,
            use_bias=False,
            name="conv",
        )(x)
        return nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-3, name="bn")(x))


class Block(nn.Module):
    """A block of parallel branches, concatenated; the last branch follows an average pool."""

    branches: Sequence[Sequence[_Unit]]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        *branches, pooled = self.branches
        outputs = [_run_branch(x, branch) for branch in branches]
        return jnp.concatenate([*outputs, _run_branch(_average_pool(x), pooled)], axis=-1)


class ReductionBlock(nn.Module):
    """A block of parallel branches that halve the map, concatenated with its maximum pool."""

    branches: Sequence[Sequence[_Unit]]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        outputs = []
        for *units, (name, features, height, width) in self.branches:
            y = _run_branch(x, units)
            outputs.append(ConvUnit(features, (height, width), 2, "VALID", name=name)(y))
        return jnp.concatenate([*outputs, _max_pool(x)], axis=-1)


class ForkedBlock(nn.Module):
    """A block for the smallest maps; two branches end in parallel 1x3 and 3x1 convolutions."""

    max_pool: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def fork(x: jax.Array, name: str) -> list[jax.Array]:
            return [
                ConvUnit(384, (1, 3), name=f"{name}a")(x),
                ConvUnit(384, (3, 1), name=f"{name}b")(x),
            ]

        short = _run_branch(x, [("branch3x3_1", 384, 1, 1)])
        long = _run_branch(x, [("branch3x3dbl_1", 448, 1, 1), ("branch3x3dbl_2", 384, 3, 3)])
        pooled = nn.max_pool(x, (3, 3), padding="SAME") if self.max_pool else _average_pool(x)
        outputs = [
            ConvUnit(320, (1, 1), name="branch1x1")(x),
            *fork(short, "branch3x3_2"),
            *fork(long, "branch3x3dbl_3"),
            ConvUnit(192, (1, 1), name="branch_pool")(pooled),
        ]
        return jnp.concatenate(outputs, axis=-1)


class _Logits(nn.Module):
    """The last linear layer. It has the bias of the published weights but does not add it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        self.param("bias", nn.initializers.zeros, (1008,))
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 1008))
        return x @ kernel


class InceptionOutput(NamedTuple):
    """The features and logits that the metrics take.

    Attributes:
      features: Means of the last map over its pixels, `[N, 2048]` float32.
      logits: Logits without the bias of the last layer, `[N, 1008]` float32, as the Inception Score
        takes them.
    """

    features: jax.Array
    logits: jax.Array


class InceptionV3(nn.Module):
    """A network from images `[N, 299, 299, 3]` that `preprocess` returns to features and logits.

    It computes in float32 and cannot be trained, as its batch normalisation takes the running
    statistics.
    """

    @nn.compact
    def __call__(self, images: jax.Array) -> InceptionOutput:
        def unit(features: int, size: int, name: str, **fields: Any) -> ConvUnit:
            return ConvUnit(features, (size, size), name=name, **fields)

        x = unit(32, 3, "Conv2d_1a_3x3", strides=2, padding="VALID")(images)
        x = unit(32, 3, "Conv2d_2a_3x3", padding="VALID")(x)
        x = _max_pool(unit(64, 3, "Conv2d_2b_3x3")(x))
        x = unit(80, 1, "Conv2d_3b_1x1")(x)
        x = _max_pool(unit(192, 3, "Conv2d_4a_3x3", padding="VALID")(x))
        for name, width in zip("bcd", (32, 64, 64), strict=True):
            x = Block(_block_a(width), name=f"Mixed_5{name}")(x)
        x = ReductionBlock(_BLOCK_B, name="Mixed_6a")(x)
        for name, width in zip("bcde", (128, 160, 160, 192), strict=True):
            x = Block(_block_c(width), name=f"Mixed_6{name}")(x)
        x = ReductionBlock(_BLOCK_D, name="Mixed_7a")(x)
        x = ForkedBlock(max_pool=False, name="Mixed_7b")(x)
        x = ForkedBlock(max_pool=True, name="Mixed_7c")(x)
        features = jnp.mean(x, axis=(1, 2))
        return InceptionOutput(features, _Logits(name="fc")(features))


def preprocess(images: jax.Array, size: int = IMAGE_SIZE) -> jax.Array:
    """Resizes uint8 images `[N, H, W, 3]` to `[N, size, size, 3]` float32 from -1 to 1.

    The interpolation is bilinear, as in `tf.image.resize_bilinear` of TensorFlow 1: output pixel i
    lies at i * H / size of the input, without the half pixel of `jax.image.resize`. Images that
    shrink are not smoothed before.

    Raises:
      UserError: The images have another shape or dtype.
    """
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise UserError(
            f"images are {images.dtype}{list(images.shape)}: expected uint8 [N, H, W, 3]; grey "
            "ones with their channel three times."
        )
    x = images.astype(jnp.float32)
    # Along the rows first, as there.
    for axis in (2, 1):
        x = _resize_axis(x, axis, size)
    return (x - 128) / 128


def _resize_axis(x: jax.Array, axis: int, size: int) -> jax.Array:
    length = x.shape[axis]
    position = np.arange(size, dtype=np.float32) * np.float32(length / size)
    low = position.astype(np.int32)
    high = np.minimum(low + 1, length - 1)
    shape = [1] * x.ndim
    shape[axis] = size
    share = (position - low).reshape(shape)
    below, above = jnp.take(x, low, axis=axis), jnp.take(x, high, axis=axis)
    return below + (above - below) * share


def _run_branch(x: jax.Array, units: Sequence[_Unit]) -> jax.Array:
    """Applies the units of a branch in order.

    It must be called in a compact method: the units become submodules of the calling module.
    """
    for name, features, height, width in units:
        x = ConvUnit(features, (height, width), name=name)(x)
    return x


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2))


def _average_pool(x: jax.Array) -> jax.Array:
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)
