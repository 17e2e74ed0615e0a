"""What training needs of an anchor with a candidate in it, and the plain way to provide it.

`WholeNetwork` compiles the network with the candidate's layers as one program, as any training
does; that takes seconds for each candidate and anchor. `stitched.StitchedNetwork` computes the same
from pieces that are compiled once. Both take the same variables, so a run may begin in one and go
on in the other.
"""

import functools
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import linen as nn

from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.layer import graph_layer
from evonorm_jax.models.classification import cross_entropy
from evonorm_jax.norm_act import accepts_field, norm_act
from evonorm_jax.search.engine.anchors import Anchor

Tree = dict[str, Any]


@runtime_checkable
class Network(Protocol):
    """An anchor with a candidate in it.

    `params` are those of the network of `stitched.Placeholder` layers: `scale`, `bias`, `v0` and
    `v1` for each layer, used or not. `batch_stats` are those of the network itself.
    """

    def gradients(
        self, params: Tree, batch_stats: Tree, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Tree, Tree]:
        """Computes the mean loss in nats, its gradients, and the running statistics afterwards."""
        ...

    def logits(self, params: Tree, batch_stats: Tree, images: jax.Array) -> jax.Array:
        """Computes the logits in evaluation, `[N, num_classes]`."""
        ...


def mean_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the mean cross-entropy in nats."""
    return jnp.mean(cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1])))


class WholeNetwork:
    """The network as one compiled program; see `Network`.

    Args:
      anchor: The network without its layers.
      num_classes: The number of classes.
      graph: The candidate; its output depends on x.
      num_groups: The number of groups in its group moments.
    """

    def __init__(self, anchor: Anchor, num_classes: int, graph: Graph, *, num_groups: int) -> None:
        layer = graph_layer(graph)
        if accepts_field(layer, "num_groups"):
            layer = norm_act(layer, num_groups=num_groups)
        model = anchor.create(num_classes, layer)
        # Methods of this object would make a reference cycle, in which a search would keep the
        # programs of its earlier candidates until Python collects garbage.
        self.gradients = jax.jit(functools.partial(_gradients, model))
        self.logits = jax.jit(functools.partial(_logits, model))


def _gradients(
    model: nn.Module, params: Tree, batch_stats: Tree, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, Tree, Tree]:
    def loss(params: Tree) -> tuple[jax.Array, Tree]:
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return mean_loss(logits, labels), updates.get("batch_stats", {})

    (value, after), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return value, gradients, after


def _logits(model: nn.Module, params: Tree, batch_stats: Tree, images: jax.Array) -> jax.Array:
    variables = {"params": params, "batch_stats": batch_stats}
    return jnp.asarray(model.apply(variables, images, train=False))
