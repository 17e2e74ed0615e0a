"""The size of a network, from its shapes alone: nothing is compiled, run or allocated.

>>> from evonorm_jax.models import create_model
>>> model = create_model("resnet50_v1", num_classes=1000, norm_act="bn_relu")
>>> count_parameters(model)
25557032
>>> count_multiply_adds(model, image_size=224)
4089184256
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from evonorm_jax.models.convolution import TransposedConv


class Complexity(NamedTuple):
    """The counts of `count_parameters` and of `count_multiply_adds`."""

    parameters: int
    multiply_adds: int


def count_parameters(model: nn.Module, *, channels: int = 3) -> int:
    """Counts the trainable values; running statistics (`batch_stats`) do not count.

    Args:
      model: Classifier from `create_model`.
      channels: Channels of its images.
    """
    # No parameter depends on the size of the image.
    return measure_complexity(model, 32, channels=channels).parameters


def count_multiply_adds(model: nn.Module, image_size: int, *, channels: int = 3) -> int:
    """Counts the multiply-adds of all convolutions and dense layers, for one image.

    This is the usual figure of the literature. It is often printed as "FLOPs", of which it is half.
    Biases, pooling, normalisation and activation are left out.

    Args:
      model: Classifier from `create_model`.
      image_size: Height and width in pixels.
      channels: Channels of its images.
    """
    return measure_complexity(model, image_size, channels=channels).multiply_adds


def measure_complexity(model: nn.Module, image_size: int, *, channels: int = 3) -> Complexity:
    """Returns both counts from one trace; it takes the arguments of `count_multiply_adds`."""
    images = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    return measure_init(functools.partial(model.init, train=False), images)


def measure_init(init: Callable[..., Any], *inputs: Any) -> Complexity:
    """Returns both counts from one trace of `init(key, *inputs)`.

    It serves networks that take more than images.

    Args:
      init: Method `init` of a module with its static arguments bound; it returns the variables.
      *inputs: Arrays or `jax.ShapeDtypeStruct`, batches of one example.
    """
    multiply_adds = 0

    def add_kernel_use(
        next_call: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        nonlocal multiply_adds
        y = next_call(*args, **kwargs)
        if context.method_name == "__call__" and context.module.has_variable("params", "kernel"):
            kernel: jax.Array = context.module.get_variable("params", "kernel")
            # Every output position uses every weight once: [..., C_in / groups, C_out] kernels
            # of dense, full and depthwise convolutions alike. Every input position does so in
            # a transposed convolution.
            transposed = isinstance(context.module, TransposedConv)
            positions = math.prod((args[0] if transposed else y).shape[:-1])
            multiply_adds += positions * math.prod(kernel.shape)
        return y

    with nn.intercept_methods(add_kernel_use):
        variables = jax.eval_shape(init, jax.random.key(0), *inputs)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    return Complexity(parameters, multiply_adds)
