"""From a name, a class or a partial to a factory of NNX layers, as `evonorm_jax.norm_act`.

>>> from flax import nnx
>>> factory = norm_act("evonorm_s0", group_size=8)
>>> layer = factory(64, rngs=nnx.Rngs(0))
>>> layer.num_features, layer.group_size, layer.scale.shape
(64, 8, (64,))
>>> norm_act("graph:evonorm_b0")(64, rngs=nnx.Rngs(0)).v1.shape
(64,)
"""

import functools
from typing import Any

from flax import nnx

from evonorm_jax.nnx import layers
from evonorm_jax.nnx.graphs import graph_layer
from evonorm_jax.norm_act import NORM_ACTS, Registry, norm_act_names

__all__ = ["NNX", "LayerLike", "norm_act", "norm_act_names"]

#: What names a layer, that is one of `norm_act_names()`, a class, or a partial of a class.
LayerLike = str | type[nnx.Module] | functools.partial

#: The layers as NNX modules.
NNX = Registry(
    {name: getattr(layers, linen.__name__) for name, linen in NORM_ACTS.items()},
    nnx.Module,
    graph_layer,
    unbound=("num_features",),
)


def norm_act(layer: LayerLike, **fields: Any) -> functools.partial:
    """Returns a factory of the layer with `fields` bound; a call may bind more or override them.

    The factory takes `num_features` and, by name, `rngs`.

    Args:
      layer: One of `norm_act_names()`; `graph:PATH` for a searched layer, its graph in a file (or
        `graph:` and what else `evonorm_jax.graphs.read_graph` takes); or a `flax.nnx.Module` class
        with the same arguments, or a partial of one.
      **fields: Fields of the layer, e.g. `epsilon`, `num_groups` or `virtual_batch_size`.

    Raises:
      UserError: The name or a field is unknown, or `layer` is none of the three.
    """
    return NNX.factory(layer, fields)
