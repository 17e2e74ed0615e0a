"""The paper's test of stability: how large adversarial weights can make the gradient.

On one batch, the kernels of the convolutions are moved so that the norm of the loss gradient with
respect to them grows; each kernel keeps its initial norm. The derivative of the gradient's norm is
the Hessian times the unit vector along the gradient, computed here as the difference of two
gradients. So the test runs on whatever computes gradients; a hundred steps take 200 of those.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from evonorm_jax.search.engine.network import Network, Tree
from evonorm_jax.search.engine.protocol import Stability


def worst_gradient_norm(
    network: Network,
    params: Tree,
    batch_stats: Tree,
    images: jax.Array,
    labels: jax.Array,
    config: Stability,
) -> tuple[float, int]:
    """Ascends the norm of the gradient; stops once it exceeds the limit.

    Args:
      network: The network with the candidate.
      params: Where the ascent starts.
      batch_stats: The running statistics; they are not changed.
      images: `[N, H, W, C]`.
      labels: `[N]`.
      config: The numbers of the test.

    Returns:
      The largest norm met, infinite where a gradient is not finite, and the steps of ascent made.
    """
    norms = _kernel_norms(params)
    worst = 0.0
    for step in range(config.num_steps + 1):
        _, gradients, _ = network.gradients(params, batch_stats, images, labels)
        norm, neighbour = _neighbour(params, gradients, config.difference)
        value = float(norm)
        worst = max(worst, value) if value == value else float("inf")
        if worst > config.max_gradient_norm or step == config.num_steps:
            return worst, step
        _, moved, _ = network.gradients(neighbour, batch_stats, images, labels)
        params = _ascend(params, gradients, moved, norms, config.step_size)
    raise AssertionError("unreachable")


def is_conv_kernel(path: Any, leaf: Any) -> bool:
    """Tells whether a parameter is the kernel of a convolution."""
    return path[-1].key == "kernel" and leaf.ndim == 4


def _map_kernels(function: Any, params: Tree, *rest: Any) -> Tree:
    """Applies `function` to the kernels; other leaves of `params` stay."""

    def apply(path: Any, leaf: Any, *others: Any) -> Any:
        return function(leaf, *others) if is_conv_kernel(path, leaf) else leaf

    return jax.tree_util.tree_map_with_path(apply, params, *rest)


def _kernels(tree: Tree) -> list[jax.Array]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [leaf for path, leaf in leaves if is_conv_kernel(path, leaf)]


def _norm(kernel: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(kernel)))


@jax.jit
def _kernel_norms(params: Tree) -> Tree:
    return _map_kernels(_norm, params)


@jax.jit
def _neighbour(params: Tree, gradients: Tree, difference: float) -> tuple[jax.Array, Tree]:
    """Returns the norm of the gradient, and the parameters a little further along it."""
    norm = optax.tree.norm(_kernels(gradients))
    size = difference * optax.tree.norm(_kernels(params)) / norm
    return norm, _map_kernels(lambda kernel, part: kernel + size * part, params, gradients)


@jax.jit
def _ascend(params: Tree, gradients: Tree, moved: Tree, norms: Tree, step_size: float) -> Tree:
    """Steps by the same relative length in every kernel, and scales it back to its norm."""

    def step(kernel: Any, here: Any, there: Any, norm: Any) -> Any:
        direction = there - here
        length = _norm(direction)
        # Where the gradient does not change there is nowhere to go.
        unit = jnp.where(length > 0, direction / jnp.where(length > 0, length, 1), 0)
        kernel = kernel + step_size * norm * unit
        return kernel * (norm / _norm(kernel))

    return _map_kernels(step, params, gradients, moved, norms)
