"""Fixed random inputs that the filters evaluate graphs at, in NumPy and float64."""

import dataclasses

import numpy as np

from evonorm_jax.graphs.graph import Graph
from evonorm_jax.graphs.values import evaluate_numpy

#: Groups of the probes, of 4 channels each: neither single channels nor all of them.
NUM_GROUPS = 4
NUM_CHANNELS = 16


@dataclasses.dataclass(frozen=True)
class Probe:
    """An input and values of the trainable vectors to evaluate graphs at, float64.

    Attributes:
      x: `[N, H, W, C]`.
      v0: `(C,)`.
      v1: `(C,)`.
    """

    x: np.ndarray
    v0: np.ndarray
    v1: np.ndarray

    def at_initial_parameters(self) -> "Probe":
        """Returns the same input with v0 = 0 and v1 = 1."""
        return Probe(self.x, np.zeros_like(self.v0), np.ones_like(self.v1))

    def evaluate(self, graph: Graph) -> np.ndarray:
        """Computes the output of a graph, `[N, H, W, C]`; not all of it need be finite."""
        return evaluate_numpy(graph, self.x, self.v0, self.v1, num_groups=NUM_GROUPS)


def make_probe(seed: int, shape: tuple[int, int, int] = (6, 5, 5)) -> Probe:
    """Draws normal values whose mean and scale differ by channel and example.

    So no two index sets have the same moments.

    Args:
      seed: The seed of the draw.
      shape: The number of examples, the height and the width.
    """
    rng = np.random.default_rng(seed)
    size, height, width = shape
    channels, examples = (1, 1, 1, NUM_CHANNELS), (size, 1, 1, 1)
    x = rng.normal(size=(size, height, width, NUM_CHANNELS))
    x *= np.exp(0.5 * rng.normal(size=channels) + 0.3 * rng.normal(size=examples))
    x += 0.7 * rng.normal(size=channels) + 0.3 * rng.normal(size=examples)
    v0, v1 = 0.5 * rng.normal(size=(2, NUM_CHANNELS))
    return Probe(x, v0, 1 + v1)
