"""A searched layer computed node by node, forward and backward, without compiling the candidate.

Every primitive is one small program, compiled when it first meets a shape and kept for all
candidates, so that a new graph costs no compilation; compiling a whole small network takes as long
as 100 of its steps. A statistic is `[N, 1, 1, C]` here whatever its index set, which leaves two
kinds of operands, maps and statistics, and so few programs.

Values are those of `evaluation.evaluate`, whose primitives these are.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from evonorm_jax.layers.base import INITIAL_STATISTIC
from evonorm_jax.layers.moments import resolve_num_groups
from evonorm_jax.search import evaluation
from evonorm_jax.search.graph import INITIAL_NODES, V0, V1, ZERO, Graph, Node, X
from evonorm_jax.search.primitives import PRIMITIVES

Arrays = Mapping[str, jax.Array]

MOMENTUM = 0.9  # of running statistics: the layers' default
EPSILON = 1e-5  # likewise, in roots and the logarithm


class Tape(NamedTuple):
    """What the backward pass of one call needs: the values of the nodes that it looks at."""

    values: dict[int, jax.Array]
    params: Arrays


class NodewiseLayer:
    """The layer of a graph, affine map included.

    Attributes:
      graph: in canonical form.
      statistics: names of its running statistics, as `BatchGraphLayer` gives them.
    """

    def __init__(self, graph: Graph, *, num_groups: int) -> None:
        """`graph` is canonical and sees x."""
        self.graph = graph
        self._num_groups = num_groups
        self._nodes = list(enumerate(graph.nodes, start=len(INITIAL_NODES)))
        # Nothing is learnt through the constant, so nothing is differentiated by it.
        self._varies = {X, V0, V1}
        for index, node in self._nodes:
            if any(i in self._varies for i in node.inputs):
                self._varies.add(index)
        self.statistics = tuple(initial_statistics(graph))

    def forward(
        self, params: Arrays, statistics: Arrays, x: jax.Array, *, train: bool
    ) -> tuple[jax.Array, dict[str, jax.Array], Tape]:
        """Output, running statistics afterwards, and the tape.

        Args:
          params: `scale`, `bias`, `v0` and `v1`, `(C,)` each.
          statistics: the running ones.
          x: `[N, H, W, C]`, float32.
          train: whether statistics are those of the batch.
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
            if not PRIMITIVES[node.primitive].batch_dependent:
                values[index] = _forward(node.primitive, groups)(*inputs)
                continue
            name = _statistic_name(index, node)
            if train:
                values[index], after[name] = _batch_forward(node.primitive)(
                    inputs[0], statistics[name]
                )
            else:
                values[index] = _running_forward(node.primitive)(inputs[0], statistics[name])
        y = _affine(values[self.graph.output], params["scale"], params["bias"], x)
        return y, after, Tape(values, params)

    def backward(
        self, tape: Tape, cotangent: jax.Array, total: jax.Array | None = None
    ) -> tuple[dict[str, jax.Array], jax.Array]:
        """Gradients by the parameters and by x, of a call in training.

        Args:
          tape: of the call.
          cotangent: of its output.
          total: what other users of x have already handed back; it is included in the result.
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
            parts = _backward(node.primitive, groups, wanted)(inputs, gradients.pop(index))
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


def _statistic(node: Node) -> str:
    return evaluation.STATISTICS[str(PRIMITIVES[node.primitive].moment)]


def initial_statistics(graph: Graph) -> dict[str, Callable[..., jax.Array]]:
    """Name of each running statistic of a canonical graph, and its first value for a shape."""
    return {
        _statistic_name(index, node): INITIAL_STATISTIC[_statistic(node)]
        for index, node in enumerate(graph.nodes, start=len(INITIAL_NODES))
        if PRIMITIVES[node.primitive].batch_dependent
    }


def _statistic_name(index: int, node: Node) -> str:
    """As `BatchGraphLayer` names it."""
    return f"{_statistic(node)}_n{index}"


add = jax.jit(jnp.add)
_zeros_like = jax.jit(jnp.zeros_like)


@functools.partial(jax.jit, static_argnums=2)
def _spread(v0: jax.Array, v1: jax.Array, size: int) -> tuple[jax.Array, ...]:
    """The constant and the vectors as statistics, `[N, 1, 1, C]`."""
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


def _apply(name: str, groups: int, *inputs: jax.Array) -> jax.Array:
    primitive = PRIMITIVES[name]
    y = evaluation.apply_primitive(
        primitive,
        inputs,
        num_groups=groups,
        epsilon=EPSILON,
        batch=evaluation.reduce_batch,
    )
    if primitive.moment is None:
        return y
    size, channels = inputs[0].shape[0], inputs[0].shape[-1]
    return jnp.broadcast_to(y, (size, 1, 1, channels))


@functools.cache
def _forward(name: str, groups: int) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(_apply, name, groups))


@functools.cache
def _batch_forward(name: str) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Value and running statistic of a moment over the batch."""

    def call(x: jax.Array, running: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = []

        def batch(statistic: str, x: jax.Array) -> jax.Array:
            found.append(evaluation.reduce_batch(statistic, x))
            return found[0]

        y = evaluation.apply_primitive(
            PRIMITIVES[name], [x], num_groups=1, epsilon=EPSILON, batch=batch
        )
        after = MOMENTUM * running + (1 - MOMENTUM) * found[0].reshape(-1)
        return jnp.broadcast_to(y, (x.shape[0], 1, 1, x.shape[-1])), after

    return jax.jit(call)


@functools.cache
def _running_forward(name: str) -> Callable[..., jax.Array]:
    """Value of a moment over the batch in evaluation."""

    def call(x: jax.Array, running: jax.Array) -> jax.Array:
        y = evaluation.apply_primitive(
            PRIMITIVES[name],
            [x],
            num_groups=1,
            epsilon=EPSILON,
            batch=lambda statistic, x: running.reshape(1, 1, 1, -1),
        )
        return jnp.broadcast_to(y, (x.shape[0], 1, 1, x.shape[-1]))

    return jax.jit(call)


@functools.cache
def _backward(name: str, groups: int, wanted: tuple[int, ...]) -> Callable[..., Any]:
    """Takes the inputs and the cotangent; returns the gradients by the wanted inputs."""

    def call(inputs: list[jax.Array], cotangent: jax.Array) -> tuple[jax.Array, ...]:
        def function(*parts: jax.Array) -> jax.Array:
            given = list(inputs)
            for k, part in zip(wanted, parts, strict=True):
                given[k] = part
            return _apply(name, groups, *given)

        return jax.vjp(function, *(inputs[k] for k in wanted))[1](cotangent)

    return jax.jit(call)
