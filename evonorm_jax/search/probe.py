"""What a graph computes, in NumPy and float64: for looking at thousands of graphs at once.

A probe of a few thousand values takes NumPy a millisecond where JAX would dispatch a hundred
operations or compile for seconds, and float64, which the functional hash needs, would be a global
switch there. The reductions are therefore written once more here, in training mode; the tests hold
`evaluation.evaluate` and this to each other for every primitive.
"""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from evonorm_jax.search.graph import Graph
from evonorm_jax.search.primitives import Primitive

#: Groups of the probes, of 4 channels each: neither single channels nor all of them.
NUM_GROUPS = 4
NUM_CHANNELS = 16

EPSILON = 1e-5
DIVISION_EPSILON = 1e-12  # as in evaluation.py


@dataclasses.dataclass(frozen=True)
class Probe:
    """An input and a value of the trainable vectors to evaluate graphs at, float64.

    Attributes:
      x: `[N, H, W, C]`.
      v0: `(C,)`.
      v1: `(C,)`.
    """

    x: np.ndarray
    v0: np.ndarray
    v1: np.ndarray

    def at_initial_parameters(self) -> "Probe":
        """The same input with v0 = 0 and v1 = 1."""
        return Probe(self.x, np.zeros_like(self.v0), np.ones_like(self.v1))


def make_probe(seed: int, shape: tuple[int, int, int] = (6, 5, 5)) -> Probe:
    """Random normal values; mean and scale differ from channel to channel and example to example.

    So no two index sets have the same moments.
    """
    rng = np.random.default_rng(seed)
    size, height, width = shape
    channels, examples = (1, 1, 1, NUM_CHANNELS), (size, 1, 1, 1)
    x = rng.normal(size=(size, height, width, NUM_CHANNELS))
    x *= np.exp(0.5 * rng.normal(size=channels) + 0.3 * rng.normal(size=examples))
    x += 0.7 * rng.normal(size=channels) + 0.3 * rng.normal(size=examples)
    v0, v1 = 0.5 * rng.normal(size=(2, NUM_CHANNELS))
    return Probe(x, v0, 1 + v1)


_ELEMENTWISE: Mapping[str, Callable[..., np.ndarray]] = MappingProxyType(
    {
        "add": np.add,
        "mul": np.multiply,
        "div": lambda a, b: a / (b + DIVISION_EPSILON * np.sign(b)),
        "max": np.maximum,
        "neg": np.negative,
        "sigmoid": lambda a: np.exp(-np.logaddexp(0, -a)),  # no overflow, all digits
        "tanh": np.tanh,
        "exp": np.exp,
        "log": lambda a: np.sign(a) * np.log(np.abs(a) + EPSILON),
        "abs": np.abs,
        "square": np.square,
        "sqrt": lambda a: np.sign(a) * np.sqrt(np.abs(a)),
    }
)

_AXES = {"bwh": (0, 1, 2), "whc": (1, 2, 3), "wh": (1, 2)}


def evaluate(graph: Graph, probe: Probe) -> np.ndarray:
    """The output for a probe, `[N, H, W, C]`, float64; whatever is not finite is left in it."""
    size, *_, channels = probe.x.shape

    def apply(index: int, primitive: Primitive, inputs: list[np.ndarray]) -> np.ndarray:
        del index
        if primitive.moment is None:
            return _ELEMENTWISE[primitive.name](*inputs)
        _, height, width, _ = inputs[0].shape
        value = np.broadcast_to(inputs[0], (size, height, width, channels))
        return _aggregate(primitive, value)

    zero = np.zeros((1, 1, 1, 1))
    vectors = [v.reshape(1, 1, 1, channels) for v in (probe.v0, probe.v1)]
    with np.errstate(all="ignore"):
        return np.broadcast_to(graph.fold([probe.x, zero, *vectors], apply), probe.x.shape)


def _aggregate(primitive: Primitive, x: np.ndarray) -> np.ndarray:
    size, height, width, channels = x.shape
    if primitive.index_set == "whcg":
        grouped = x.reshape(size, height, width, NUM_GROUPS, channels // NUM_GROUPS)
        moment = _moment(str(primitive.moment), grouped, (1, 2, 4))
        spread = np.broadcast_to(moment, (size, 1, 1, *grouped.shape[3:]))
        return spread.reshape(size, 1, 1, channels)
    return _moment(str(primitive.moment), x, _AXES[str(primitive.index_set)])


def _moment(moment: str, x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    if moment == "rms":
        return np.sqrt(np.mean(np.square(x), axis=axes, keepdims=True) + EPSILON)
    mean = np.mean(x, axis=axes, keepdims=True)
    if moment == "mean":
        return mean
    return np.sqrt(np.mean(np.square(x - mean), axis=axes, keepdims=True) + EPSILON)
