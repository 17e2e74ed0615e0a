"""A network cut at its layers into segments, each compiled once for all candidates.

The network is traced with a placeholder for each norm-activation layer, and the traced program is
cut there. What is left between the layers, convolutions mostly, is the same for every candidate.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from evonorm_jax.layers.base import NormActLayer
from evonorm_jax.layers.definitions.base import Arrays, BatchStatistics, Parameter
from evonorm_jax.search.engine.network import mean_loss

#: Where a layer or a parameter stands in the tree of parameters.
TreePath = tuple[str, ...]

#: The number of the network's input.
IMAGES = -1

_site = jax.extend.core.Primitive("norm_act_site")
_site.def_abstract_eval(lambda x, scale, bias, *, path: x)


class Placeholder(NormActLayer):
    """Stands where a searched layer goes, and has every parameter that one may have.

    It can be traced and initialised, but not run.
    """

    fuses_activation: ClassVar[bool] = True

    def _own_parameters(self, num_channels: int) -> dict[str, Parameter]:
        channel = (num_channels,)
        return {
            "v0": Parameter(nn.initializers.zeros, channel),
            "v1": Parameter(nn.initializers.ones, channel),
        }

    def _transform(self, x: jax.Array, params: Arrays, statistics: BatchStatistics) -> jax.Array:
        """Marks the place of the layer in the traced program."""
        if self.is_initializing():
            return x
        return _site.bind(x, params["scale"], params["bias"], path=self.path)


@dataclasses.dataclass(frozen=True, eq=False)
class Segment:
    """Part of the traced network between two layers.

    Attributes:
      params: The paths of the parameters that it uses.
      inputs: The numbers of the values that it takes.
      outputs: The numbers of the values that it makes for others.
      run: Computes the outputs from parameters and inputs.
      layer: The path of the layer that follows, with the numbers of its input and output; None at
        the end of the network.
    """

    params: tuple[TreePath, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    run: Callable[..., tuple[jax.Array, ...]]
    layer: tuple[TreePath, int, int] | None

    @functools.cached_property
    def forward(self) -> Callable[..., Any]:
        """Computes the outputs from parameters and inputs; compiled."""
        return jax.jit(self.run)

    @functools.cached_property
    def backward(self) -> Callable[..., Any]:
        """Computes the gradients of parameters and inputs from the cotangents, too; compiled."""

        def backward(params: Any, values: Any, cotangents: Any) -> Any:
            fixed, free = self._split(values)
            _, pullback = jax.vjp(
                lambda params, free: self.run(params, self._join(fixed, free)), params, free
            )
            return pullback(tuple(cotangents))

        return jax.jit(backward)

    @functools.cached_property
    def head(self) -> Callable[..., Any]:
        """Computes the loss and its gradients from the labels, too; for the last segment."""

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
        """The inputs to differentiate with respect to: all but the images."""
        return [number for number in self.inputs if number != IMAGES]

    def _split(self, values: Sequence[jax.Array]) -> tuple[list[Any], list[Any]]:
        pairs = list(zip(self.inputs, values, strict=True))
        return [v for i, v in pairs if i == IMAGES], [v for i, v in pairs if i != IMAGES]

    def _join(self, fixed: Sequence[Any], free: Sequence[Any]) -> list[Any]:
        parts = iter(free)
        return [fixed[0] if i == IMAGES else next(parts) for i in self.inputs]


class _Trace(NamedTuple):
    """A traced network.

    Attributes:
      jaxpr: The program; it takes the parameters one by one and then the images.
      params: The path of each variable that is a parameter.
      consts: The value of each variable that is a constant.
      numbers: The number of every other variable.
    """

    jaxpr: Any
    params: dict[Any, TreePath]
    consts: dict[Any, Any]
    numbers: dict[Any, int]


def cut(model: nn.Module, image_shape: tuple[int, ...]) -> list[Segment]:
    """Cuts a network of `Placeholder` layers for images `[N, H, W, C]` into its segments."""
    trace = _trace(model, image_shape)
    # A value that nothing after its segment reads stays inside.
    read_later: set[Any] = set(trace.jaxpr.outvars)
    segments: list[Segment] = []
    for equations, site in reversed(list(_split_at_layers(trace.jaxpr.eqns))):
        layer = None
        if site is not None:
            read_later.discard(site.outvars[0])
            read_later.add(site.invars[0])
            path = tuple(site.params["path"])
            layer = path, trace.numbers[site.invars[0]], trace.numbers[site.outvars[0]]
        made = {variable for equation in equations for variable in equation.outvars}
        outputs = sorted(made & read_later, key=trace.numbers.__getitem__)
        if site is None:
            outputs = list(trace.jaxpr.outvars)
        used = _used_variables(equations, made)
        params = [variable for variable in used if variable in trace.params]
        inputs = [variable for variable in used if variable in trace.numbers]
        segments.append(
            Segment(
                params=tuple(trace.params[variable] for variable in params),
                inputs=tuple(trace.numbers[variable] for variable in inputs),
                outputs=tuple(trace.numbers[variable] for variable in outputs),
                run=_runner(equations, params, inputs, outputs, trace.consts),
                layer=layer,
            )
        )
        read_later = (read_later - made) | set(inputs)
    return segments[::-1]


def _trace(model: nn.Module, image_shape: tuple[int, ...]) -> _Trace:
    """Traces a network and numbers its values; the images have the number `IMAGES`."""
    images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = jax.eval_shape(functools.partial(model.init, train=False), key, images)["params"]
    flat = flatten_dict(shapes)
    paths, leaves = list(flat), list(flat.values())

    def network(leaves: list[jax.Array], images: jax.Array) -> jax.Array:
        params = unflatten_dict(dict(zip(paths, leaves, strict=True)))
        return jnp.asarray(model.apply({"params": params}, images, train=False))

    closed = jax.make_jaxpr(network)(leaves, images)
    jaxpr = closed.jaxpr
    numbers = {jaxpr.invars[-1]: IMAGES}
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            numbers[variable] = len(numbers)
    params = dict(zip(jaxpr.invars[:-1], paths, strict=True))
    return _Trace(jaxpr, params, dict(zip(jaxpr.constvars, closed.consts, strict=True)), numbers)


def _split_at_layers(equations: Sequence[Any]) -> Iterator[tuple[list[Any], Any]]:
    """Yields the equations up to each layer with the layer's own; None after the last layer."""
    group: list[Any] = []
    for equation in equations:
        if equation.primitive is _site:
            yield group, equation
            group = []
        else:
            group.append(equation)
    yield group, None


def _used_variables(equations: list[Any], made: set[Any]) -> list[Any]:
    """Returns the variables that equations read and do not make, each of them once."""
    used = [
        variable
        for equation in equations
        for variable in equation.invars
        if not isinstance(variable, jax.extend.core.Literal) and variable not in made
    ]
    return list(dict.fromkeys(used))


def _runner(
    equations: list[Any], params: list[Any], inputs: list[Any], outputs: list[Any], consts: Any
) -> Callable[..., tuple[jax.Array, ...]]:
    """Returns a function of parameters and inputs that evaluates the equations."""

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
