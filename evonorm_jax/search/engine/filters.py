"""The filters: what can be said of a layer in milliseconds, without training it.

They look at the output for fixed random inputs, in NumPy. In the order in which they are asked:

    no_path_from_x         no path leads from x to the output
    nonfinite              the output is not finite, or beyond float32, for plain inputs
    constant               the output is the same for every input
    same_for_all_examples  the output is the same for every example of a batch
    no_spatial_dependence  the output is the same everywhere in a map: only statistics of x are left
    blow_up                nine residual blocks of random weights leave all bounds
    dead                   nine such blocks end in pooled features that no example changes
    duplicate              an earlier candidate computes the same function

All but the first and the last see the layer at its initial v0 and v1, where training starts. So
those from `constant` to `dead` may reject a layer that training would have changed;
`experiments.false_rejects` measures how often.

>>> from evonorm_jax.graphs.library import LIBRARY
>>> reject(LIBRARY["evonorm_s0"]) is None
True
>>> print(reject(LIBRARY["random"]))
no_spatial_dependence: varies by 0.0e+00 of its size within a map
"""

import dataclasses
import functools
import hashlib

import numpy as np

from evonorm_jax.graphs.canonical import canonical
from evonorm_jax.graphs.graph import Graph, X
from evonorm_jax.search.engine.probes import Probe, make_probe
from evonorm_jax.search.engine.verdicts import Reason, Rejection


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """Thresholds of the filters; all our choice, none is the paper's.

    Attributes:
      min_variation: The share of its size by which the output must vary; float32 resolves no less.
      num_blocks: The number of blocks in the small stack.
      max_activation: The largest absolute value allowed within the stack.
    """

    min_variation: float = 1e-6
    num_blocks: int = 9
    max_activation: float = 1e8


_DEFAULT = FilterConfig()

_TINY, _HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def reject(graph: Graph, config: FilterConfig = _DEFAULT) -> Rejection | None:
    """Returns the verdict of the first filter that the layer fails; None if it passes all.

    This is a pure function, because the probes are fixed, and takes 0.1 to 10 ms. Duplicates are
    left to `Duplicates`.
    """
    if X not in graph.effective:
        return Rejection(Reason.NO_PATH_FROM_X)
    graph = canonical(graph)
    return _reject_single_layer(graph, config) or _reject_stack(graph, config)


def _reject_single_layer(graph: Graph, config: FilterConfig) -> Rejection | None:
    """Applies the filters that look at one layer."""
    first, second = (_probe(seed).at_initial_parameters() for seed in (0, 1))
    y, other = first.evaluate(graph), second.evaluate(graph)
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
    """Applies the filters that look at a stack of pre-activation residual blocks.

    A block is the layer, a 1x1 convolution with He's initialisation, and the addition.
    """
    rng = np.random.default_rng(0)
    start = _probe(2, (16, 6, 6)).at_initial_parameters()
    x = rng.normal(size=start.x.shape)
    channels = x.shape[-1]
    for block in range(config.num_blocks):
        y = dataclasses.replace(start, x=x).evaluate(graph)
        with np.errstate(all="ignore"):
            x = x + y @ (rng.normal(size=(channels, channels)) * np.sqrt(2 / channels))
            largest = np.abs(x).max()
        if not largest <= config.max_activation:  # NaN is not
            return Rejection(Reason.BLOW_UP, f"{largest:.1e} after {block + 1} blocks")
    y = dataclasses.replace(start, x=x).evaluate(graph)
    size = float(np.abs(y).max())
    if not size <= config.max_activation:
        return Rejection(Reason.BLOW_UP, f"{size:.1e} after {config.num_blocks} blocks")
    # The variation of what a classifier sees. A mean of zero is noise in the last digit of y.
    variation = float(np.ptp(y.mean(axis=(1, 2)), axis=0).max())
    if variation <= config.min_variation * size:
        return Rejection(Reason.DEAD, f"features of size {size:.1e} vary by {variation:.1e}")
    return None


def functional_hash(graph: Graph) -> str:
    """Returns 24 hexadecimal digits, equal for graphs that compute the same function.

    They hash six digits of the output at generic v0 and v1, in training. `max(x, x)` and `x` share
    the hash. `2 x` and `x` do not, although the affine map that follows could make up for it,
    because training would start elsewhere. Functions that differ by an epsilon alone may share it.
    """
    # Two inputs, one with few and small examples, so that no coincidence merges two functions.
    outputs = [_probe(seed, shape).evaluate(canonical(graph)) for seed, shape in _HASHED]
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
    """Remembers which candidate was the first to compute each function.

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
        """Rejects a function that an earlier candidate has; otherwise notes it as this one's."""
        first = self._first.setdefault(function, candidate)
        if first == candidate:
            return None
        return Rejection(Reason.DUPLICATE, f"computes the function of candidate {first}")


def screen(
    graph: Graph, candidate: int, config: FilterConfig | None, duplicates: Duplicates
) -> tuple[Rejection | None, str | None]:
    """Decides whether a search trains a candidate; each candidate comes here once.

    Args:
      graph: The candidate.
      candidate: Its number.
      config: Thresholds of the filters; None lets everything pass that depends on x.
      duplicates: The functions of the candidates before it.

    Returns:
      Why not to train it, or None; and its functional hash, None where it was not computed.
    """
    if config is None:
        depends_on_x = X in graph.effective
        return (None if depends_on_x else Rejection(Reason.NO_PATH_FROM_X)), None
    if (rejection := reject(graph, config)) is not None:
        return rejection, None
    function = functional_hash(graph)
    return duplicates.check(function, candidate=candidate), function


@functools.cache
def _probe(seed: int, shape: tuple[int, int, int] = (6, 5, 5)) -> Probe:
    return make_probe(seed, shape)


def _in_float32(y: np.ndarray) -> bool:
    """Tells whether all values are finite in float32."""
    return bool(np.abs(y).max() <= _HUGE)
