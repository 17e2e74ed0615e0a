"""A network in pieces: `segments.py` cuts it at its layers, `graphs/nodewise.py` computes those.

A training step is then a hundred small calls in a row instead of one program, and nothing is
compiled for a candidate.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.nodewise import NodewiseLayer, Tape, add
from evonorm_jax.search.engine.anchors import Anchor
from evonorm_jax.search.engine.network import Tree
from evonorm_jax.search.engine.segments import IMAGES, Placeholder, Segment, TreePath, cut


@functools.cache
def stitched_anchor(anchor: Anchor, num_classes: int) -> "StitchedAnchor":
    """Returns this process's shared instance; engines reuse its compiled segments."""
    return StitchedAnchor(anchor, num_classes)


class StitchedAnchor:
    """The segments of an anchor network, for each shape of images.

    Args:
      anchor: The network without its layers.
      num_classes: The number of classes.
    """

    def __init__(self, anchor: Anchor, num_classes: int) -> None:
        self.model = anchor.create(num_classes, Placeholder)
        self._segments: dict[tuple[int, ...], list[Segment]] = {}
        self._init = jax.jit(self._initial_params, static_argnums=1)

    def initial_params(self, seed: int, image_shape: tuple[int, ...]) -> Tree:
        """Draws the parameters of the network, with all vectors of all layers.

        Args:
          seed: The seed of the draw.
          image_shape: `(height, width, channels)`.
        """
        return self._init(seed, image_shape)

    def _initial_params(self, seed: Any, image_shape: tuple[int, ...]) -> Tree:
        images = jnp.zeros((1, *image_shape))
        return self.model.init(jax.random.key(seed), images, train=False)["params"]

    def segments(self, image_shape: tuple[int, ...]) -> list[Segment]:
        """Returns the segments for images of that shape, `(N, H, W, C)`."""
        if image_shape not in self._segments:
            self._segments[image_shape] = cut(self.model, image_shape)
        return self._segments[image_shape]


class StitchedNetwork:
    """An anchor with a candidate in it; see `network.Network`.

    Args:
      anchor: The segments of the anchor.
      graph: The candidate in canonical form; its output depends on x.
      num_groups: The number of groups in its group moments.
    """

    def __init__(self, anchor: StitchedAnchor, graph: Graph, *, num_groups: int) -> None:
        self._anchor = anchor
        self._layer = NodewiseLayer(graph, num_groups=num_groups)

    def gradients(
        self, params: Tree, batch_stats: Tree, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Tree, Tree]:
        """Computes the mean loss, its gradients, and the running statistics afterwards."""
        flat, stats = flatten_dict(params), flatten_dict(batch_stats)
        segments = self._anchor.segments(images.shape)
        values, tapes, after = self._run(segments, flat, stats, images, train=True)

        gradients: dict[TreePath, jax.Array] = {}
        last = segments[-1]
        loss, own, cotangents = last.head(
            [flat[path] for path in last.params], [values[i] for i in last.inputs], labels
        )
        waiting: dict[int, jax.Array] = {}
        _collect(gradients, waiting, last, own, cotangents)
        for segment in segments[-2::-1]:
            assert segment.layer is not None
            path, given, made = segment.layer
            by_params, by_x = self._layer.backward(
                tapes.pop(path), waiting.pop(made), waiting.pop(given, None)
            )
            gradients |= {(*path, name): value for name, value in by_params.items()}
            waiting[given] = by_x
            own, cotangents = segment.backward(
                [flat[path] for path in segment.params],
                [values[i] for i in segment.inputs],
                [waiting.pop(i) for i in segment.outputs],
            )
            _collect(gradients, waiting, segment, own, cotangents)
        return loss, unflatten_dict(gradients), unflatten_dict(after)

    def logits(self, params: Tree, batch_stats: Tree, images: jax.Array) -> jax.Array:
        """Computes the logits in evaluation, `[N, num_classes]`."""
        segments = self._anchor.segments(images.shape)
        flat, stats = flatten_dict(params), flatten_dict(batch_stats)
        values, _, _ = self._run(segments, flat, stats, images, train=False)
        last = segments[-1]
        return last.forward([flat[path] for path in last.params], [values[i] for i in last.inputs])[
            0
        ]

    def _run(
        self,
        segments: list[Segment],
        params: dict[TreePath, jax.Array],
        stats: dict[TreePath, jax.Array],
        images: jax.Array,
        *,
        train: bool,
    ) -> tuple[dict[int, jax.Array], dict[TreePath, Tape], dict[TreePath, jax.Array]]:
        """Runs all segments but the last, with the layers behind them."""
        values: dict[int, jax.Array] = {IMAGES: images}
        tapes: dict[TreePath, Tape] = {}
        after: dict[TreePath, jax.Array] = {}
        for segment in segments[:-1]:
            made = segment.forward(
                [params[path] for path in segment.params], [values[i] for i in segment.inputs]
            )
            values |= dict(zip(segment.outputs, made, strict=True))
            assert segment.layer is not None
            path, given, result = segment.layer
            values[result], running, tapes[path] = self._layer.forward(
                {name: params[(*path, name)] for name in ("scale", "bias", "v0", "v1")},
                {name: stats[(*path, name)] for name in self._layer.statistics},
                values[given],
                train=train,
            )
            after |= {(*path, name): value for name, value in running.items()}
        return values, tapes, after


def _collect(
    gradients: dict[TreePath, jax.Array],
    waiting: dict[int, jax.Array],
    segment: Segment,
    own: Sequence[jax.Array],
    cotangents: Sequence[jax.Array],
) -> None:
    """Adds the gradients that a segment hands back to those of others."""
    gradients |= dict(zip(segment.params, own, strict=True))
    for i, cotangent in zip(segment.differentiated, cotangents, strict=True):
        waiting[i] = add(waiting[i], cotangent) if i in waiting else cotangent
