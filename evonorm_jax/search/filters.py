"""The cheap filters: what can be said of a layer in milliseconds, without training it.

They look at the output for fixed random inputs, in NumPy. In the order in which they are asked:

    no_path_from_x         no path leads from x to the output
    nonfinite              the output is not finite, or beyond float32, for plain inputs
    constant               the output is the same for every input
    same_for_all_examples  the output is the same for every example of a batch
    no_spatial_dependence  the output is the same everywhere in a map: only statistics of x are left
    blow_up                nine residual blocks of random weights leave all bounds
    dead                   nine such blocks end in pooled features that no example changes
    duplicate              an earlier candidate computes the same function

All but the first and the last see the layer at its initial v0 and v1, where training starts; so in
principle those from `constant` to `dead` may wrong a layer that training would have changed.

>>> from evonorm_jax.search.library import LIBRARY
>>> reject(LIBRARY["evonorm_s0"]) is None
True
>>> print(reject(LIBRARY["random"]))
no_spatial_dependence: varies by 0.0e+00 of its size within a map
"""

import dataclasses
import enum
import functools
import hashlib

import numpy as np

from evonorm_jax.search import probe
from evonorm_jax.search.canonical import canonical
from evonorm_jax.search.graph import Graph, X


class Reason(enum.StrEnum):
    """Why a layer is not worth training; the text is what ledgers keep."""

    NO_PATH_FROM_X = "no_path_from_x"
    NONFINITE = "nonfinite"
    CONSTANT = "constant"
    SAME_FOR_ALL_EXAMPLES = "same_for_all_examples"
    NO_SPATIAL_DEPENDENCE = "no_spatial_dependence"
    BLOW_UP = "blow_up"
    DEAD = "dead"
    DUPLICATE = "duplicate"


@dataclasses.dataclass(frozen=True)
class Rejection:
    """A verdict against a layer.

    Attributes:
      reason: which filter.
      detail: what it saw, for people.
    """

    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else str(self.reason)


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """Thresholds of the filters; all our choice, none is the paper's.

    Attributes:
      min_variation: share of the output's size that it must vary by. Float32 knows no less.
      num_blocks: depth of the small stack.
      max_activation: largest absolute value within the stack.
    """

    min_variation: float = 1e-6
    num_blocks: int = 9
    max_activation: float = 1e8


_DEFAULT = FilterConfig()

_TINY, _HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def reject(graph: Graph, config: FilterConfig = _DEFAULT) -> Rejection | None:
    """The first filter that the layer fails, duplicates apart; None if it passes all.

    A pure function: the probes are fixed. Takes 0.1 to 10 ms.
    """
    if X not in graph.effective:
        return Rejection(Reason.NO_PATH_FROM_X)
    graph = canonical(graph)
    return _reject_single_layer(graph, config) or _reject_stack(graph, config)


def _reject_single_layer(graph: Graph, config: FilterConfig) -> Rejection | None:
    first, second = (_probe(seed).at_initial_parameters() for seed in (0, 1))
    y, other = probe.evaluate(graph, first), probe.evaluate(graph, second)
    if not (_in_float32(y) and _in_float32(other)):
        return Rejection(Reason.NONFINITE)
    size = max(float(np.abs(y).max()), float(np.abs(other).max()), _TINY)
    for reason, variation, where in (
        (Reason.CONSTANT, np.abs(y - other).max(), "between two inputs"),
        (Reason.SAME_FOR_ALL_EXAMPLES, np.ptp(y, axis=0).max(), "within a batch"),
        (Reason.NO_SPATIAL_DEPENDENCE, np.ptp(y, axis=(1, 2)).max(), "within a map"),
    ):
        if variation < config.min_variation * size:
            share = float(variation) / size
            return Rejection(reason, f"varies by {share:.1e} of its size {where}")
    return None


def _reject_stack(graph: Graph, config: FilterConfig) -> Rejection | None:
    """Pre-activation residual blocks: layer, 1x1 convolution with He's initialisation, addition."""
    rng = np.random.default_rng(0)
    start = _probe(2, (16, 6, 6)).at_initial_parameters()
    x = rng.normal(size=start.x.shape)
    channels = x.shape[-1]
    for block in range(config.num_blocks):
        y = probe.evaluate(graph, dataclasses.replace(start, x=x))
        with np.errstate(all="ignore"):
            x = x + y @ (rng.normal(size=(channels, channels)) * np.sqrt(2 / channels))
            largest = np.abs(x).max()
        if not largest <= config.max_activation:  # NaN is not
            return Rejection(Reason.BLOW_UP, f"{largest:.1e} after {block + 1} blocks")
    y = probe.evaluate(graph, dataclasses.replace(start, x=x))
    size = float(np.abs(y).max())
    if not size <= config.max_activation:
        return Rejection(Reason.BLOW_UP, f"{size:.1e} after {config.num_blocks} blocks")
    # Of what a classifier sees; a mean of zero is noise of the size of y's last digit.
    variation = float(np.ptp(y.mean(axis=(1, 2)), axis=0).max())
    if variation <= config.min_variation * size:
        return Rejection(Reason.DEAD, f"features of size {size:.1e} vary by {variation:.1e}")
    return None


def functional_hash(graph: Graph) -> str:
    """24 hexadecimal digits, equal for graphs that compute the same function.

    Of the output at generic v0 and v1, in training, to six digits: `max(x, x)` and `x` share it,
    while `2 x` and `x` do not, although the affine map that follows could make up for it: training
    would start elsewhere. Functions that differ by an epsilon alone may share it or not.
    """
    # Two inputs, one with few and small examples, so that no coincidence merges two functions.
    outputs = [probe.evaluate(canonical(graph), _probe(seed, shape)) for seed, shape in _HASHED]
    digest = hashlib.blake2b(digest_size=12)
    for y in outputs:
        finite = np.isfinite(y)
        size = float(np.median(np.abs(y[finite]))) if finite.any() else 1.0
        # Linear around 0, where digits are lost to cancellation, logarithmic far from it.
        scaled = np.arcsinh(y / size) if size > 0 else y
        digits = np.round(np.where(finite, scaled, 0.0), 6) + 0.0  # no negative zero
        digest.update(digits.tobytes())
        digest.update(np.where(np.isnan(y), 2, np.isinf(y) * np.sign(np.nan_to_num(y))).tobytes())
        digest.update(f"{np.log(size) if size > 0 else 0.0:.5f}".encode())
    return digest.hexdigest()


_HASHED = ((0, (6, 5, 5)), (3, (3, 2, 3)))


class Duplicates:
    """The functions seen so far, and which candidate was the first to compute each.

    >>> seen = Duplicates()
    >>> one, two = Graph.from_text("n4 = max(x, x)"), Graph.from_text("n4 = add(x, 0)")
    >>> seen.check(functional_hash(one), candidate=7) is None
    True
    >>> print(seen.check(functional_hash(two), candidate=8))
    duplicate: computes the function of candidate 7
    """

    def __init__(self) -> None:
        self._first: dict[str, int] = {}

    def check(self, function: str, *, candidate: int) -> Rejection | None:
        """Rejects a function that an earlier candidate has; otherwise keeps it as this one's."""
        first = self._first.setdefault(function, candidate)
        if first == candidate:
            return None
        return Rejection(Reason.DUPLICATE, f"computes the function of candidate {first}")


@functools.cache
def _probe(seed: int, shape: tuple[int, int, int] = (6, 5, 5)) -> probe.Probe:
    return probe.make_probe(seed, shape)


def _in_float32(y: np.ndarray) -> bool:
    """Whether all values are finite in float32."""
    return bool(np.abs(y).max() <= _HUGE)
