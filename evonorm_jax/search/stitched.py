"""A network cut at its layers: what lies between them is compiled once for all candidates.

The network is traced with a placeholder for each norm-activation layer. Cutting the traced program
there leaves segments of convolutions, the same for every candidate; `nodewise.py` computes the
layers between them. A training step then is a hundred small calls in a row instead of one program.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.extend
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from evonorm_jax.layers.base import NormActLayer
from evonorm_jax.search.anchors import Anchor
from evonorm_jax.search.graph import Graph
from evonorm_jax.search.network import Tree, mean_loss
from evonorm_jax.search.nodewise import NodewiseLayer, Tape, add

Path = tuple[str, ...]

IMAGES = -1  # the number of the network's input

_site = jax.extend.core.Primitive("norm_act_site")
_site.def_abstract_eval(lambda x, scale, bias, *, path: x)


class Placeholder(NormActLayer):
    """Where a searched layer goes; its parameters are those of any of them.

    It can be traced and initialised, not run.
    """

    fuses_activation: ClassVar[bool] = True

    def transform(
        self, x: jax.Array, scale: jax.Array, bias: jax.Array, use_running_average: bool | None
    ) -> jax.Array:
        self.channel_param("v0", nn.initializers.zeros, x)
        self.channel_param("v1", nn.initializers.ones, x)
        if self.is_initializing():
            return x
        return _site.bind(x, scale, bias, path=self.path)


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """Part of the traced network between two layers.

    Attributes:
      params: paths of the parameters that it uses.
      inputs: numbers of the values that it takes.
      outputs: numbers of the values that it makes for others.
      run: the outputs as a function of parameters and inputs.
      layer: path of the layer that follows, with the numbers of its input and output; None at the
        end of the network.
    """

    params: tuple[Path, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    run: Callable[..., tuple[jax.Array, ...]]
    layer: tuple[Path, int, int] | None

    @functools.cached_property
    def forward(self) -> Callable[..., Any]:
        """Compiled: takes parameters and inputs."""
        return jax.jit(self.run)

    @functools.cached_property
    def backward(self) -> Callable[..., Any]:
        """Compiled: takes the cotangents too; gradients by parameters and by inputs."""

        def backward(params: Any, values: Any, cotangents: Any) -> Any:
            fixed, free = self._split(values)
            _, pullback = jax.vjp(
                lambda params, free: self.run(params, self._join(fixed, free)), params, free
            )
            return pullback(tuple(cotangents))

        return jax.jit(backward)

    @functools.cached_property
    def head(self) -> Callable[..., Any]:
        """Compiled, of the last one: takes the labels too; the loss and its gradients."""

        def head(params: Any, values: Any, labels: jax.Array) -> Any:
            fixed, free = self._split(values)

            def loss(params: Any, free: Any) -> jax.Array:
                (logits,) = self.run(params, self._join(fixed, free))
                return mean_loss(logits, labels)

            value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(params, free)
            return value, *gradients

        return jax.jit(head)

    @property
    def differentiated(self) -> list[int]:
        """Inputs that gradients are wanted by: nobody asks for that by the images."""
        return [number for number in self.inputs if number != IMAGES]

    def _split(self, values: Sequence[jax.Array]) -> tuple[list[Any], list[Any]]:
        pairs = list(zip(self.inputs, values, strict=True))
        return [v for i, v in pairs if i == IMAGES], [v for i, v in pairs if i != IMAGES]

    def _join(self, fixed: Sequence[Any], free: Sequence[Any]) -> list[Any]:
        parts = iter(free)
        return [fixed[0] if i == IMAGES else next(parts) for i in self.inputs]


@functools.cache
def stitched_anchor(anchor: Anchor, num_classes: int) -> "StitchedAnchor":
    """The one of this process: every engine uses what another has compiled."""
    return StitchedAnchor(anchor, num_classes)


class StitchedAnchor:
    """The segments of an anchor network, for each shape of images.

    Args:
      anchor: the network.
      num_classes: of its logits.
    """

    def __init__(self, anchor: Anchor, num_classes: int) -> None:
        self.model = anchor.create(num_classes, Placeholder)
        self._segments: dict[tuple[int, ...], list[Segment]] = {}
        self._init = jax.jit(self._initial_params, static_argnums=1)

    def initial_params(self, seed: int, image_shape: tuple[int, ...]) -> Tree:
        """Of the network, with all vectors of all layers; `image_shape` without the batch."""
        return self._init(seed, image_shape)

    def _initial_params(self, seed: Any, image_shape: tuple[int, ...]) -> Tree:
        images = jnp.zeros((1, *image_shape))
        return self.model.init(jax.random.key(seed), images, train=False)["params"]

    def segments(self, image_shape: tuple[int, ...]) -> list[Segment]:
        """The network for images of that shape, cut."""
        if image_shape not in self._segments:
            self._segments[image_shape] = cut(self.model, image_shape)
        return self._segments[image_shape]


class StitchedNetwork:
    """An anchor with a candidate in it; see `network.Network`.

    Args:
      anchor: its segments.
      graph: canonical, sees x.
      num_groups: of the layers.
    """

    def __init__(self, anchor: StitchedAnchor, graph: Graph, *, num_groups: int) -> None:
        self._anchor = anchor
        self._layer = NodewiseLayer(graph, num_groups=num_groups)

    def gradients(
        self, params: Tree, batch_stats: Tree, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Tree, Tree]:
        """Mean loss, its gradients, and the running statistics afterwards."""
        flat, stats = flatten_dict(params), flatten_dict(batch_stats)
        segments = self._anchor.segments(images.shape)
        values, tapes, after = self._run(segments, flat, stats, images, train=True)

        gradients: dict[Path, jax.Array] = {}
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
        """In evaluation, `[N, num_classes]`."""
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
        params: dict[Path, jax.Array],
        stats: dict[Path, jax.Array],
        images: jax.Array,
        *,
        train: bool,
    ) -> tuple[dict[int, jax.Array], dict[Path, Tape], dict[Path, jax.Array]]:
        """All segments but the last, with the layers behind them."""
        values: dict[int, jax.Array] = {IMAGES: images}
        tapes: dict[Path, Tape] = {}
        after: dict[Path, jax.Array] = {}
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
    gradients: dict[Path, jax.Array],
    waiting: dict[int, jax.Array],
    segment: Segment,
    own: Sequence[jax.Array],
    cotangents: Sequence[jax.Array],
) -> None:
    """Books what a segment hands back."""
    gradients |= dict(zip(segment.params, own, strict=True))
    for i, cotangent in zip(segment.differentiated, cotangents, strict=True):
        waiting[i] = add(waiting[i], cotangent) if i in waiting else cotangent


def cut(model: nn.Module, image_shape: tuple[int, ...]) -> list[Segment]:
    """The segments of a network of `Placeholder` layers for images `[N, H, W, C]`."""
    images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(functools.partial(model.init, train=False), key, images)["params"]
    flat = flatten_dict(shapes)

    def network(params: dict[Path, jax.Array], images: jax.Array) -> jax.Array:
        logits = model.apply({"params": unflatten_dict(params)}, images, train=False)
        return jnp.asarray(logits)

    paths, leaves = list(flat), list(flat.values())
    closed = jax.make_jaxpr(lambda leaves, x: network(dict(zip(paths, leaves, strict=True)), x))(
        leaves, images
    )
    jaxpr = closed.jaxpr
    params = dict(zip(jaxpr.invars[:-1], paths, strict=True))
    consts = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    numbers = {jaxpr.invars[-1]: IMAGES}
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            numbers[variable] = len(numbers)

    groups: list[tuple[list[Any], Any]] = [([], None)]
    for equation in jaxpr.eqns:
        if equation.primitive is _site:
            groups[-1] = (groups[-1][0], equation)
            groups.append(([], None))
        else:
            groups[-1][0].append(equation)

    # A value that nothing after its segment reads stays inside.
    read_later: set[Any] = set(jaxpr.outvars)
    segments: list[Segment] = []
    for equations, site in reversed(groups):
        if site is not None:
            read_later.discard(site.outvars[0])
            read_later.add(site.invars[0])
        made = {variable for equation in equations for variable in equation.outvars}
        outputs = sorted(made & read_later, key=numbers.__getitem__)
        if site is None:
            outputs = list(jaxpr.outvars)
        used = [
            variable
            for equation in equations
            for variable in equation.invars
            if not isinstance(variable, jax.extend.core.Literal) and variable not in made
        ]
        used = list(dict.fromkeys(used))
        own = [variable for variable in used if variable in params]
        inputs = [variable for variable in used if variable in numbers]
        layer = None
        if site is not None:
            path = tuple(site.params["path"])
            layer = path, numbers[site.invars[0]], numbers[site.outvars[0]]
        segments.append(
            Segment(
                params=tuple(params[variable] for variable in own),
                inputs=tuple(numbers[variable] for variable in inputs),
                outputs=tuple(numbers[variable] for variable in outputs),
                run=_runner(equations, own, inputs, outputs, consts),
                layer=layer,
            )
        )
        read_later = (read_later - made) | set(inputs)
    return segments[::-1]


def _runner(
    equations: list[Any], params: list[Any], inputs: list[Any], outputs: list[Any], consts: Any
) -> Callable[..., tuple[jax.Array, ...]]:
    """The equations as a function of parameters and inputs."""

    def run(given: Sequence[jax.Array], values: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
        env = {
            **consts,
            **dict(zip(params, given, strict=True)),
            **dict(zip(inputs, values, strict=True)),
        }

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, jax.extend.core.Literal) else env[atom]

        for equation in equations:
            bound = equation.primitive.get_bind_params(equation.params)
            result = equation.primitive.bind(*map(read, equation.invars), **bound)
            results = result if equation.primitive.multiple_results else [result]
            env |= dict(zip(equation.outvars, results, strict=True))
        return tuple(map(read, outputs))

    return run
