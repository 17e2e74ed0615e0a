"""A searched layer computed node by node, forward and backward, without compiling the candidate.

Every primitive is one small program, compiled when it first meets a shape and kept for all
candidates, so that a new graph costs no compilation; compiling a whole small network takes as long
as 100 of its steps. A statistic is `[N, 1, 1, C]` here whatever its index set, which leaves two
kinds of operands, maps and statistics, and so few programs.

Values are those of `values.evaluate`, whose primitives these are.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from evonorm_jax.graphs.definitions import running_statistics, statistic_name
from evonorm_jax.graphs.graph import INITIAL_NODES, V0, V1, ZERO, Graph, X
from evonorm_jax.graphs.primitives import PRIMITIVES, Primitive
from evonorm_jax.graphs.reductions import reduce_batch
from evonorm_jax.graphs.values import apply_primitive
from evonorm_jax.layers.definitions.base import INITIAL_STATISTIC
from evonorm_jax.layers.groups import resolve_num_groups

Arrays = Mapping[str, jax.Array]

#: The share of a running statistic that is kept: the layers' default.
MOMENTUM = 0.9


class Tape(NamedTuple):
    """What the backward pass of one call needs.

    Attributes:
      values: The values of the nodes, by index.
      params: The parameters of the call.
    """

    values: dict[int, jax.Array]
    params: Arrays


class NodewiseLayer:
    """The layer of a graph, affine map included.

    Args:
      graph: The graph in canonical form; its output depends on x.
      num_groups: The number of groups of the group moments.

    Attributes:
      graph: The graph.
      statistics: The names of its running statistics, as `BatchGraphLayer` gives them.
    """

    def __init__(self, graph: Graph, *, num_groups: int) -> None:
        self.graph = graph
        self._num_groups = num_groups
        self._nodes = list(enumerate(graph.nodes, start=len(INITIAL_NODES)))
        # Nothing is learnt through the constant, so nothing is differentiated with respect to it.
        self._varies = {X, V0, V1}
        for index, node in self._nodes:
            if any(i in self._varies for i in node.inputs):
                self._varies.add(index)
        self.statistics = tuple(initial_statistics(graph))

    def forward(
        self, params: Arrays, statistics: Arrays, x: jax.Array, *, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array], Tape]:
        """Computes the output.

        Args:
          params: `scale`, `bias`, `v0` and `v1`, `(C,)` each.
          statistics: The running statistics.
          x: `[N, H, W, C]`, float32.
          train: True takes the statistics of the batch, False the running ones.

        Returns:
          The output `[N, H, W, C]`, the running statistics afterwards, and the tape.
        """
        groups = resolve_num_groups(x.shape[-1], self._num_groups)
        values = {X: x}
        if self.graph.effective & {ZERO, V0, V1}:
            values |= dict(
                zip((ZERO, V0, V1), _spread(params["v0"], params["v1"], len(x)), strict=True)
            )
        after = dict(statistics)
        for index, node in self._nodes:
            inputs = [values[i] for i in node.inputs]
            primitive = PRIMITIVES[node.primitive]
            if not primitive.batch_dependent:
                values[index] = _forward(primitive, groups)(*inputs)
                continue
            name = statistic_name(index, str(primitive.statistic))
            if train:
                values[index], after[name] = _batch_forward(primitive)(inputs[0], statistics[name])
            else:
                values[index] = _running_forward(primitive)(inputs[0], statistics[name])
        y = _affine(values[self.graph.output], params["scale"], params["bias"], x)
        return y, after, Tape(values, params)

    def backward(
        self, tape: Tape, cotangent: jax.Array, total: jax.Array | None = None
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """Computes the gradients with respect to the parameters and to x, of a call in training.

        Args:
          tape: The tape of the call.
          cotangent: The cotangent of its output.
          total: What other users of x have already handed back; it is included in the result.

        Returns:
          The gradients of the parameters by name, and that of x.
        """
        values, params = tape
        x = values[X]
        groups = resolve_num_groups(x.shape[-1], self._num_groups)
        output = self.graph.output
        gradient, scale, bias = _affine_backward(
            values[output], params["scale"], params["bias"], x, cotangent
        )
        gradients: dict[int, jax.Array] = {} if total is None else {X: total}
        if output in self._varies:
            _add(gradients, output, gradient)
        for index, node in reversed(self._nodes):
            if index not in gradients:
                continue
            wanted = tuple(k for k, i in enumerate(node.inputs) if i in self._varies)
            inputs = [values[i] for i in node.inputs]
            backward = _backward(PRIMITIVES[node.primitive], groups, wanted)
            parts = backward(inputs, gradients.pop(index))
            for k, part in zip(wanted, parts, strict=True):
                _add(gradients, node.inputs[k], part)
        vectors = {}
        for index, name in ((V0, "v0"), (V1, "v1")):
            vectors[name] = (
                _sum_examples(gradients[index]) if index in gradients else _zeros_like(params[name])
            )
        by_x = gradients[X] if X in gradients else _zeros_like(x)
        return {"scale": scale, "bias": bias, **vectors}, by_x


def _add(gradients: dict[int, jax.Array], index: int, part: jax.Array) -> None:
    gradients[index] = add(gradients[index], part) if index in gradients else part


def initial_statistics(graph: Graph) -> dict[str, Callable[..., jax.Array]]:
    """Returns how each running statistic of a canonical graph is initialised for a shape."""
    return {name: INITIAL_STATISTIC[kind] for name, kind in running_statistics(graph).items()}


add = jax.jit(jnp.add)
_zeros_like = jax.jit(jnp.zeros_like)


@functools.partial(jax.jit, static_argnums=2)
def _spread(v0: jax.Array, v1: jax.Array, size: int) -> tuple[jax.Array, ...]:
    """Broadcasts the constant and the vectors to `[N, 1, 1, C]`, the shape of statistics."""
    shape = (size, 1, 1, len(v0))
    return jnp.zeros(shape), jnp.broadcast_to(v0, shape), jnp.broadcast_to(v1, shape)


@jax.jit
def _sum_examples(gradient: jax.Array) -> jax.Array:
    return jnp.sum(gradient, axis=(0, 1, 2))


def _affine_map(value: jax.Array, scale: jax.Array, bias: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.broadcast_to(value, x.shape) * scale + bias


_affine = jax.jit(_affine_map)


@jax.jit
def _affine_backward(
    value: jax.Array, scale: jax.Array, bias: jax.Array, x: jax.Array, cotangent: jax.Array
) -> Any:
    def function(value: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        return _affine_map(value, scale, bias, x)

    return jax.vjp(function, value, scale, bias)[1](cotangent)


def _apply(primitive: Primitive, groups: int, *inputs: jax.Array) -> jax.Array:
    y = apply_primitive(primitive, inputs, num_groups=groups, batch=reduce_batch)
    return y if primitive.index_set is None else _as_statistic(y, inputs[0])


def _as_statistic(y: jax.Array, x: jax.Array) -> jax.Array:
    """Broadcasts the value of an aggregation of `x` to `[N, 1, 1, C]`."""
    return jnp.broadcast_to(y, (x.shape[0], 1, 1, x.shape[-1]))


@functools.cache
def _forward(primitive: Primitive, groups: int) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(_apply, primitive, groups))


@functools.cache
def _batch_forward(primitive: Primitive) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Compiles the value and the running statistic of a moment over the batch."""

    def call(x: jax.Array, running: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = []

        def batch(statistic: str, x: jax.Array) -> jax.Array:
            found.append(reduce_batch(statistic, x))
            return found[0]

        y = apply_primitive(primitive, [x], num_groups=1, batch=batch)
        after = MOMENTUM * running + (1 - MOMENTUM) * found[0].reshape(-1)
        return _as_statistic(y, x), after

    return jax.jit(call)


@functools.cache
def _running_forward(primitive: Primitive) -> Callable[..., jax.Array]:
    """Compiles the value of a moment over the batch in evaluation."""

    def call(x: jax.Array, running: jax.Array) -> jax.Array:
        def batch(statistic: str, x: jax.Array) -> jax.Array:
            del statistic, x
            return running.reshape(1, 1, 1, -1)

        return _as_statistic(apply_primitive(primitive, [x], num_groups=1, batch=batch), x)

    return jax.jit(call)


@functools.cache
def _backward(primitive: Primitive, groups: int, wanted: tuple[int, ...]) -> Callable[..., Any]:
    """Compiles the gradients with respect to the wanted inputs, from inputs and cotangent."""

    def call(inputs: list[jax.Array], cotangent: jax.Array) -> tuple[jax.Array, ...]:
        def function(*parts: jax.Array) -> jax.Array:
            given = list(inputs)
            for k, part in zip(wanted, parts, strict=True):
                given[k] = part
            return _apply(primitive, groups, *given)

        return jax.vjp(function, *(inputs[k] for k in wanted))[1](cotangent)

    return jax.jit(call)
